/* The first pair representation and its gradients; see PairEncoding.
 *
 * A pair of atoms has the mean of its bond features' embeddings, the embedding of its path, and
 * W₂·GELU(W₁·g(x) + b₁) + b₂ of G normal densities g of its distance x, each only where it is shown. Pairs with the
 * virtual node have a vector of their own. Row 0 of an embedding is padding and has no gradient.
 */
#ifndef PAIR_ENCODING_H
#define PAIR_ENCODING_H

#include "rows.h"

enum { SHOWN_PATH = 1, SHOWN_EDGE = 2, SHOWN_DISTANCE = 4, NUM_BOND_FEATURES = 3 };
#define LEAST_DENSITY 1e-30f

typedef struct {
    long A, N, P, G, Pp, Gp;
    long place[BLOCK]; /* of the block's pairs in tensors [B, A, A] */
    float density_at_centre, per_spacing;
    const float *x, *centre, *up_GG, *up_bias, *down_GP, *down_bias, *bond, *path; /* weights transposed */
    const int32_t *bond_code, *path_code, *shown;
    float *offset, *density, *hidden, *row;
} PairEncoding;

/* size: molecules B, atoms A, width P, Gaussians G, or 0 without distances, ... tensor: nodes of each
 * molecule, x [B, A, A], centres [G], spacing [1], W₁ [G, G], b₁, W₂ [P, G], b₂, embeddings of bonds and paths, codes of bonds [B, A, A, 3], of paths
 * [B, A, A] and what is shown, all int32. */
static PairEncoding pair_encoding_of(Space *space, const long *size, float *const *tensor) {
    PairEncoding e = {.A = size[1], .N = size[1] + 1, .P = size[2], .G = size[3]};
    e.Pp = padded(e.P);
    e.Gp = padded(e.G);
    e.x = tensor[1];
    e.centre = pack(space, tensor[2], 1, e.G);
    if (e.G) {
        e.per_spacing = 1.0f / tensor[3][0];
        e.density_at_centre = (float)(1.0 / (sqrt(2.0 * 3.14159) * tensor[3][0])); /* the reference's π */
    }
    e.up_GG = pack_transposed(space, tensor[4], e.G, e.G);
    e.up_bias = pack(space, tensor[5], 1, e.G);
    e.down_GP = pack_transposed(space, tensor[6], e.P, e.G);
    e.down_bias = pack(space, tensor[7], 1, e.P);
    e.bond = pack(space, tensor[8], size[4], e.P);
    e.path = pack(space, tensor[9], size[5], e.P);
    e.bond_code = (const int32_t *)tensor[10];
    e.path_code = (const int32_t *)tensor[11];
    e.shown = (const int32_t *)tensor[12];
    e.offset = take(space, BLOCK * e.Gp);
    e.density = take(space, BLOCK * e.Gp);
    e.hidden = take(space, BLOCK * e.Gp);
    e.row = take(space, BLOCK * e.Pp);
    return e;
}

/* Offsets (x − centre) / spacing and densities of a block; none of denormal size, which products are slow with. */
static void densities(const PairEncoding *e, long count) {
    for (long r = 0; r < count; r++)
        for (long g = 0; g < e->Gp; g += LANES) {
            const vec z = (e->x[e->place[r]] - load(e->centre + g)) * e->per_spacing;
            const vec density = exponential(-0.5f * z * z) * e->density_at_centre;
            store(e->offset + r * e->Gp + g, z);
            store(e->density + r * e->Gp + g, choose(density < LEAST_DENSITY, (vec){0}, density));
        }
}

/* Turn to a block of a molecule's pairs of atoms. */
static void turn_to_block(PairEncoding *e, Square atoms, long molecule, long first, long count) {
    for (long r = 0; r < count; r++) e->place[r] = molecule * e->A * e->A + place_of(atoms, first + r);
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
    const int32_t shown = e->shown[place], *code = e->bond_code + place * NUM_BOND_FEATURES;
    if (shown & SHOWN_PATH) add_to(row, e->path + e->path_code[place] * e->Pp, e->Pp);
    for (long c = 0; c < e->Pp && shown & SHOWN_EDGE; c += LANES) {
        const vec sum = load(e->bond + code[0] * e->Pp + c) + load(e->bond + code[1] * e->Pp + c);
        store(row + c, load(row + c) + (sum + load(e->bond + code[2] * e->Pp + c)) / (float)NUM_BOND_FEATURES);
    }
}

/* size: ..., rows of the two embeddings. tensor: ..., the virtual pairs' vector [P]; kept: hidden [B, A, A, G] before
 * GELU; y [B, N, N, P]. */
void pair_encoding(const long *size, float *const *tensor) {
    Space *space = open_space();
    PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *virtual_P = tensor[13];
    float *y = tensor[15];
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0) memcpy(y + row * e.P, virtual_P, 4 * e.P);
    for (long b = 0; b < size[0]; b++) {
        const Square nodes = square_of(tensor[0], e.N, b), atoms = {e.A, nodes.n - 1, NULL};
        clear_padding(y + b * e.N * e.N * e.P, nodes, e.P);
        for (long first = 0; first < atoms.n * atoms.n; first += BLOCK) {
            const long count = smaller(BLOCK, atoms.n * atoms.n - first);
            turn_to_block(&e, atoms, b, first, count);
            if (e.G) encode_distances(&e, count, tensor[14] + (b * e.A * e.A + first) * e.G);
            for (long r = 0; r < count; r++) {
                float *row = e.row + r * e.Pp;
                if (!e.G || !(e.shown[e.place[r]] & SHOWN_DISTANCE)) memset(row, 0, 4 * e.Pp);
                add_embeddings(&e, e.place[r], row);
                memcpy(y + row_of(&e, e.place[r]), row, 4 * e.P);
            }
        }
    }
}

typedef struct {
    const float *up_GG, *down_PG; /* as they are */
    float *bond, *path, *up, *up_bias, *down, *down_bias, *grad_hidden, *slope;
} PairEncodingGradients;

/* Through the map of the densities: adds to its weights' gradients and writes that of x. */
static void backward_of_distances(const PairEncoding *e, PairEncodingGradients *d, const float *hidden, long count,
                                  float *grad_x) {
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
        grad_x[e->place[r]] = -sum_of(sum) * e->per_spacing;
    }
}

static void backward_of_embeddings(const PairEncoding *e, PairEncodingGradients *d, long place, const float *row) {
    const int32_t shown = e->shown[place], *code = e->bond_code + place * NUM_BOND_FEATURES;
    if (shown & SHOWN_PATH) add_to(d->path + e->path_code[place] * e->Pp, row, e->Pp);
    for (int f = 0; f < NUM_BOND_FEATURES && shown & SHOWN_EDGE; f++) {
        float *to = d->bond + code[f] * e->Pp;
        for (long c = 0; c < e->Pp; c += LANES)
            store(to + c, load(to + c) + load(row + c) / (float)NUM_BOND_FEATURES);
    }
}

/* tensor: as of pair_encoding up to what is shown, grad of y, hidden; gradients of x, W₁, b₁, W₂, b₂, of the
 * embeddings of bonds and of paths, and of the virtual pairs' vector. */
void pair_encoding_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *grad = tensor[13], *hidden = tensor[14];
    PairEncodingGradients d = {
        .up_GG = pack(space, tensor[4], e.G, e.G), .down_PG = pack(space, tensor[6], e.P, e.G),
        .bond = take(space, size[4] * e.Pp), .path = take(space, size[5] * e.Pp),
        .up = take(space, e.Gp * e.Gp), .up_bias = take(space, e.Gp),
        .down = take(space, e.Pp * e.Gp), .down_bias = take(space, e.Pp),
        .grad_hidden = take(space, BLOCK * e.Gp), .slope = take(space, BLOCK * e.Gp),
    };
    for (long b = 0; b < size[0]; b++) {
        const Square atoms = {e.A, square_of(tensor[0], e.N, b).n - 1, NULL};
        clear_padding(tensor[15] + b * e.A * e.A, atoms, 1);
        for (long first = 0; first < atoms.n * atoms.n; first += BLOCK) {
            const long count = smaller(BLOCK, atoms.n * atoms.n - first);
            turn_to_block(&e, atoms, b, first, count);
            memset(e.row, 0, 4 * BLOCK * e.Pp);
            for (long r = 0; r < count; r++) {
                float *row = e.row + r * e.Pp;
                memcpy(row, grad + row_of(&e, e.place[r]), 4 * e.P);
                backward_of_embeddings(&e, &d, e.place[r], row);
                if (!(e.shown[e.place[r]] & SHOWN_DISTANCE)) memset(row, 0, 4 * e.P);
            }
            if (e.G) backward_of_distances(&e, &d, hidden + (b * e.A * e.A + first) * e.G, count, tensor[15]);
        }
    }
    unpack(tensor[16], d.up, e.G, e.G);
    unpack(tensor[17], d.up_bias, 1, e.G);
    unpack(tensor[18], d.down, e.P, e.G);
    unpack(tensor[19], d.down_bias, 1, e.P);
    memset(d.bond, 0, 4 * e.Pp);
    memset(d.path, 0, 4 * e.Pp);
    unpack(tensor[20], d.bond, size[4], e.P);
    unpack(tensor[21], d.path, size[5], e.P);
    memset(tensor[22], 0, 4 * e.P);
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0)
            for (long p = 0; p < e.P; p++) tensor[22][p] += grad[row * e.P + p];
}

#endif
