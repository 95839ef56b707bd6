/* The first pair representation and its gradients; see PairEncoding.
 *
 * A pair of atoms has the mean of its bond features' embeddings, the embedding of its path, and
 * W₂·GELU(W₁·g(x) + b₁) + b₂ of G normal densities g of its mapped distance x = (|s_i| + |s_j|)·r_ij + t_i + t_j, each
 * only where it is shown. Pairs with the virtual node have a vector of their own. Row 0 of an embedding is padding and
 * has no gradient.
 */
#ifndef PAIR_ENCODING_H
#define PAIR_ENCODING_H

#include "rows.h"

enum { SHOWN_PATH = 1, SHOWN_EDGE = 2, SHOWN_DISTANCE = 4, NUM_BOND_FEATURES = 3 };
#define LEAST_DENSITY 1e-30f

typedef struct {
    long A, N, P, G, Pp, Gp;
    long place[BLOCK]; /* of the block's pairs in tensors [B, A, A] */
    float distance[BLOCK], x[BLOCK];
    float density_at_centre, per_spacing;
    const float *coordinates, *centre, *up_GG, *up_bias, *down_GP, *down_bias, *bond, *path; /* weights transposed */
    const float *scale, *shift;
    long no_bond, bond_offset, bond_stride, hidden_code, path_offset, path_hidden;
    const uint8_t *bond_feature, *shown, *hidden_molecule;
    const int16_t *path_length;
    const int32_t *first, *second;
    float *offset, *density, *hidden, *row;
} PairEncoding;

/* size: molecules B, atoms A, width P, Gaussians G, rows of the embeddings of bonds and paths and of the distance map,
 * code of no bond, offset and stride of bond features, code of what is hidden, offset of paths, code of a hidden path.
 * tensor: nodes of each molecule, coordinates [B, A, 3], centres [G], spacing [1], W₁ [G, G], b₁, W₂ [P, G], b₂,
 * embeddings of bonds and paths, bond features [B, A, A, 3] (bytes), paths [B, A, A] (int16), what is shown [B, A, A]
 * (bytes; NULL: all), which molecules are hidden [B] (bytes), types of atoms [B, A] as the first and as the second of a
 * pair (int32), s and t of each type, ... */
static PairEncoding pair_encoding_of(Space *space, const long *size, float *const *tensor) {
    PairEncoding e = {.A = size[1], .N = size[1] + 1, .P = size[2], .G = size[3]};
    e.Pp = padded(e.P);
    e.Gp = padded(e.G);
    e.coordinates = tensor[1];
    e.centre = pack(space, tensor[2], 1, e.G);
    e.per_spacing = 1.0f / tensor[3][0];
    e.density_at_centre = (float)(1.0 / (sqrt(2.0 * 3.14159) * tensor[3][0])); /* the reference's π */
    e.up_GG = pack_transposed(space, tensor[4], e.G, e.G);
    e.up_bias = pack(space, tensor[5], 1, e.G);
    e.down_GP = pack_transposed(space, tensor[6], e.P, e.G);
    e.down_bias = pack(space, tensor[7], 1, e.P);
    e.bond = pack(space, tensor[8], size[4], e.P);
    e.path = pack(space, tensor[9], size[5], e.P);
    e.no_bond = size[7];
    e.bond_offset = size[8];
    e.bond_stride = size[9];
    e.hidden_code = size[10];
    e.path_offset = size[11];
    e.path_hidden = size[12];
    e.bond_feature = (const uint8_t *)tensor[10];
    e.path_length = (const int16_t *)tensor[11];
    e.shown = (const uint8_t *)tensor[12];
    e.hidden_molecule = (const uint8_t *)tensor[13];
    e.first = (const int32_t *)tensor[14];
    e.second = (const int32_t *)tensor[15];
    e.scale = tensor[16];
    e.shift = tensor[17];
    e.offset = take(space, BLOCK * e.Gp);
    e.density = take(space, BLOCK * e.Gp);
    e.hidden = take(space, BLOCK * e.Gp);
    e.row = take(space, BLOCK * e.Pp);
    return e;
}

INLINE int shown_at(const PairEncoding *e, long place) {
    return e->shown ? e->shown[place] : SHOWN_PATH | SHOWN_EDGE | SHOWN_DISTANCE;
}

INLINE const float *path_row(const PairEncoding *e, const float *table, long place) {
    const long code = e->hidden_molecule[place / (e->A * e->A)] ? e->path_hidden : e->path_length[place] + e->path_offset;
    return table + code * e->Pp;
}

INLINE const float *bond_row(const PairEncoding *e, const float *table, long place, long feature) {
    const long raw = e->bond_feature[place * NUM_BOND_FEATURES + feature];
    const long code = raw ? raw + e->bond_offset + e->bond_stride * feature : e->no_bond;
    return table + (e->hidden_molecule[place / (e->A * e->A)] ? e->hidden_code : code) * e->Pp;
}

/* Offsets (x − centre) / spacing and densities of a block; none of denormal size, which products are slow with. */
static void densities(const PairEncoding *e, long count) {
    for (long r = 0; r < count; r++)
        for (long g = 0; g < e->Gp; g += LANES) {
            const vec z = (e->x[r] - load(e->centre + g)) * e->per_spacing;
            const vec density = exponential(-0.5f * z * z) * e->density_at_centre;
            store(e->offset + r * e->Gp + g, z);
            store(e->density + r * e->Gp + g, choose(density < LEAST_DENSITY, (vec){0}, density));
        }
}

/* Turn to a block of a molecule's pairs of atoms: where they are, and their distances. */
static void turn_to_block(PairEncoding *e, Square atoms, long molecule, long first, long count) {
    for (long r = 0; r < count; r++) {
        const long pair = place_of(atoms, first + r);
        const long i = molecule * e->A + pair / e->A, j = molecule * e->A + pair % e->A;
        float square = 0.0f;
        for (int axis = 0; axis < 3; axis++) {
            const float offset = e->coordinates[3 * i + axis] - e->coordinates[3 * j + axis];
            square += offset * offset;
        }
        e->place[r] = molecule * e->A * e->A + pair;
        e->distance[r] = sqrtf(square);
        e->x[r] = (fabsf(e->scale[e->first[i]]) + fabsf(e->scale[e->second[j]])) * e->distance[r]
                  + (e->shift[e->first[i]] + e->shift[e->second[j]]);
    }
}

/* Where the row of a pair of atoms is in a tensor [B, N, N, P]. */
INLINE long row_of(const PairEncoding *e, long pair) {
    const long molecule = pair / (e->A * e->A), i = pair / e->A % e->A, j = pair % e->A;
    return ((molecule * e->N + i + 1) * e->N + j + 1) * e->P;
}

/* The rows of a block from their distances; keeps the hidden layer before GELU. */
static void encode_distances(const PairEncoding *e, long count, float *hidden) {
    densities(e, count);
    multiply(BLOCK, e->Gp, e->G, e->density, e->Gp, 1, e->up_GG, e->Gp, e->up_bias, e->hidden, e->Gp, 0);
    put_rows(hidden, WHOLE, 0, count, e->G, e->hidden);
    for (long i = 0; i < BLOCK * e->Gp; i += LANES) store(e->hidden + i, gelu(load(e->hidden + i)));
    multiply(BLOCK, e->Pp, e->G, e->hidden, e->Gp, 1, e->down_GP, e->Pp, e->down_bias, e->row, e->Pp, 0);
}

static void add_embeddings(const PairEncoding *e, long place, float *row) {
    const int shown = shown_at(e, place);
    if (shown & SHOWN_PATH) add_to(row, path_row(e, e->path, place), e->Pp);
    if (!(shown & SHOWN_EDGE)) return;
    const float *const bond[] = {bond_row(e, e->bond, place, 0), bond_row(e, e->bond, place, 1),
                                 bond_row(e, e->bond, place, 2)};
    for (long c = 0; c < e->Pp; c += LANES) {
        const vec sum = load(bond[0] + c) + load(bond[1] + c) + load(bond[2] + c);
        store(row + c, load(row + c) + sum * (1.0f / NUM_BOND_FEATURES));
    }
}

/* tensor: ..., the virtual pairs' vector [P]; kept: hidden [B, A, A, G] before
 * GELU; y [B, N, N, P]. */
void pair_encoding(const long *size, float *const *tensor) {
    Space *space = open_space();
    PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *virtual_P = tensor[18];
    float *y = tensor[20];
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0) copy_row(y + row * e.P, virtual_P, e.P);
    for (long b = 0; b < size[0]; b++) {
        const Square nodes = square_of(tensor[0], e.N, b), atoms = {e.A, nodes.n - 1, NULL};
        clear_padding(y + b * e.N * e.N * e.P, nodes, e.P);
        for (long first = 0; first < atoms.n * atoms.n; first += BLOCK) {
            const long count = smaller(BLOCK, atoms.n * atoms.n - first);
            turn_to_block(&e, atoms, b, first, count);
            encode_distances(&e, count, tensor[19] + (b * e.A * e.A + first) * e.G);
            for (long r = 0; r < count; r++) {
                float *row = e.row + r * e.Pp;
                if (!(shown_at(&e, e.place[r]) & SHOWN_DISTANCE)) memset(row, 0, 4 * e.Pp);
                add_embeddings(&e, e.place[r], row);
                copy_row(y + row_of(&e, e.place[r]), row, e.P);
            }
        }
    }
}

typedef struct {
    const float *up_GG, *down_PG; /* as they are */
    float *bond, *path, *up, *up_bias, *down, *down_bias, *grad_hidden, *slope;
    double *scale, *shift; /* sums over all pairs of a type, one after another */
} PairEncodingGradients;

/* Through the map of a pair's distance. */
static void backward_of_map(const PairEncoding *e, PairEncodingGradients *d, long r, float grad_x) {
    const long A = e->A, molecule = e->place[r] / (A * A), pair = e->place[r] % (A * A);
    const long type[] = {e->first[molecule * A + pair / A], e->second[molecule * A + pair % A]};
    for (int k = 0; k < 2; k++) {
        const float scale = e->scale[type[k]], sign = scale > 0.0f ? 1.0f : scale < 0.0f ? -1.0f : scale;
        d->scale[type[k]] += (double)(sign * e->distance[r] * grad_x);
        d->shift[type[k]] += (double)grad_x;
    }
}

/* Through the map of the densities and that of the distances: adds to their weights' gradients. */
static void backward_of_distances(const PairEncoding *e, PairEncodingGradients *d, const float *hidden, long count) {
    const long Gp = e->Gp, Pp = e->Pp;
    densities(e, count);
    memset(e->density + count * Gp, 0, 4 * (BLOCK - count) * Gp);
    hidden = get_rows(hidden, WHOLE, 0, count, e->G, e->hidden);
    multiply(BLOCK, Gp, e->P, e->row, Pp, 1, d->down_PG, Gp, NULL, d->grad_hidden, Gp, 0);
    for (long i = 0; i < BLOCK * Gp; i += LANES) {
        vec value;
        const vec slope = gelu_slope(load(hidden + i), &value);
        store(e->hidden + i, value);
        store(d->grad_hidden + i, load(d->grad_hidden + i) * slope);
    }
    multiply(Pp, Gp, BLOCK, e->row, 1, Pp, e->hidden, Gp, NULL, d->down, Gp, 1);
    add_columns(e->row, Pp, d->down_bias);
    multiply(Gp, Gp, BLOCK, d->grad_hidden, 1, Gp, e->density, Gp, NULL, d->up, Gp, 1);
    add_columns(d->grad_hidden, Gp, d->up_bias);
    multiply(BLOCK, Gp, e->G, d->grad_hidden, Gp, 1, d->up_GG, Gp, NULL, d->slope, Gp, 0);
    for (long r = 0; r < count; r++) { /* d density / d x = −density · (x − centre) / spacing² */
        vec sum = {0};
        for (long at = r * Gp; at < (r + 1) * Gp; at += LANES)
            sum += load(e->offset + at) * load(e->density + at) * load(d->slope + at);
        backward_of_map(e, d, r, -sum_of(sum) * e->per_spacing);
    }
}

static void backward_of_embeddings(const PairEncoding *e, PairEncodingGradients *d, long place, const float *row) {
    const int shown = shown_at(e, place);
    if (shown & SHOWN_PATH) add_to((float *)path_row(e, d->path, place), row, e->Pp);
    for (int f = 0; f < NUM_BOND_FEATURES && shown & SHOWN_EDGE; f++) {
        float *to = (float *)bond_row(e, d->bond, place, f);
        for (long c = 0; c < e->Pp; c += LANES)
            store(to + c, load(to + c) + load(row + c) * (1.0f / NUM_BOND_FEATURES));
    }
}

static PairEncodingGradients pair_encoding_gradients_of(Space *space, const PairEncoding *e, const long *size,
                                                        float *const *tensor) {
    return (PairEncodingGradients){
        .up_GG = pack(space, tensor[4], e->G, e->G),
        .down_PG = pack(space, tensor[6], e->P, e->G),
        .bond = take(space, size[4] * e->Pp),
        .path = take(space, size[5] * e->Pp),
        .up = take(space, e->Gp * e->Gp),
        .up_bias = take(space, e->Gp),
        .down = take(space, e->Pp * e->Gp),
        .down_bias = take(space, e->Pp),
        .grad_hidden = take(space, BLOCK * e->Gp),
        .slope = take(space, BLOCK * e->Gp),
        .scale = (double *)take(space, 2 * size[6]),
        .shift = (double *)take(space, 2 * size[6]),
    };
}

/* tensor: ..., grad of y, hidden; gradients of W₁, b₁, W₂, b₂, of the embeddings of bonds and of paths, of s, of t, and of
 * the virtual pairs' vector. */
void pair_encoding_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *grad = tensor[18], *hidden = tensor[19];
    PairEncodingGradients d = pair_encoding_gradients_of(space, &e, size, tensor);
    for (long b = 0; b < size[0]; b++) {
        const Square atoms = {e.A, square_of(tensor[0], e.N, b).n - 1, NULL};
        for (long first = 0; first < atoms.n * atoms.n; first += BLOCK) {
            const long count = smaller(BLOCK, atoms.n * atoms.n - first);
            turn_to_block(&e, atoms, b, first, count);
            memset(e.row, 0, 4 * BLOCK * e.Pp);
            for (long r = 0; r < count; r++) {
                float *row = e.row + r * e.Pp;
                copy_row(row, grad + row_of(&e, e.place[r]), e.P);
                backward_of_embeddings(&e, &d, e.place[r], row);
                if (!(shown_at(&e, e.place[r]) & SHOWN_DISTANCE)) memset(row, 0, 4 * e.P);
            }
            backward_of_distances(&e, &d, hidden + (b * e.A * e.A + first) * e.G, count);
        }
    }
    unpack(tensor[20], d.up, e.G, e.G);
    unpack(tensor[21], d.up_bias, 1, e.G);
    unpack(tensor[22], d.down, e.P, e.G);
    unpack(tensor[23], d.down_bias, 1, e.P);
    memset(d.bond, 0, 4 * e.Pp);
    memset(d.path, 0, 4 * e.Pp);
    unpack(tensor[24], d.bond, size[4], e.P);
    unpack(tensor[25], d.path, size[5], e.P);
    for (long k = 0; k < size[6]; k++) {
        tensor[26][k] = k ? (float)d.scale[k] : 0.0f;
        tensor[27][k] = k ? (float)d.shift[k] : 0.0f;
    }
    memset(tensor[28], 0, 4 * e.P);
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0)
            for (long p = 0; p < e.P; p++) tensor[28][p] += grad[row * e.P + p];
}

#endif
