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
    long A, N, P, G, Pp, Gp, pairs;
    float density_at_centre, per_spacing;
    const float *x, *centre, *up_GG, *up_bias, *down_GP, *down_bias, *bond, *path; /* weights transposed */
    const int32_t *bond_code, *path_code, *shown;
    float *offset, *density, *hidden, *row;
} PairEncoding;

/* size: molecules B, atoms A, width P, Gaussians G, or 0 without distances, ... tensor: x [B, A, A], centres [G],
 * spacing [1], W₁ [G, G], b₁, W₂ [P, G], b₂, embeddings of bonds and paths, codes of bonds [B, A, A, 3], of paths
 * [B, A, A] and what is shown, all int32. */
static PairEncoding pair_encoding_of(Space *space, const long *size, float *const *tensor) {
    PairEncoding e = {.A = size[1], .N = size[1] + 1, .P = size[2], .G = size[3], .pairs = size[0] * size[1] * size[1]};
    e.Pp = padded(e.P);
    e.Gp = padded(e.G);
    e.x = tensor[0];
    e.centre = pack(space, tensor[1], 1, e.G);
    if (e.G) {
        e.per_spacing = 1.0f / tensor[2][0];
        e.density_at_centre = (float)(1.0 / (sqrt(2.0 * 3.14159) * tensor[2][0])); /* the reference's π */
    }
    e.up_GG = pack_transposed(space, tensor[3], e.G, e.G);
    e.up_bias = pack(space, tensor[4], 1, e.G);
    e.down_GP = pack_transposed(space, tensor[5], e.P, e.G);
    e.down_bias = pack(space, tensor[6], 1, e.P);
    e.bond = pack(space, tensor[7], size[4], e.P);
    e.path = pack(space, tensor[8], size[5], e.P);
    e.bond_code = (const int32_t *)tensor[9];
    e.path_code = (const int32_t *)tensor[10];
    e.shown = (const int32_t *)tensor[11];
    e.offset = take(space, BLOCK * e.Gp);
    e.density = take(space, BLOCK * e.Gp);
    e.hidden = take(space, BLOCK * e.Gp);
    e.row = take(space, BLOCK * e.Pp);
    return e;
}

/* Offsets (x − centre) / spacing and densities of a block; none of denormal size, which products are slow with. */
static void densities(const PairEncoding *e, long first, long count) {
    for (long r = 0; r < count; r++)
        for (long g = 0; g < e->Gp; g += LANES) {
            const vec z = (e->x[first + r] - load(e->centre + g)) * e->per_spacing;
            const vec density = exponential(-0.5f * z * z) * e->density_at_centre;
            store(e->offset + r * e->Gp + g, z);
            store(e->density + r * e->Gp + g, choose(density < LEAST_DENSITY, (vec){0}, density));
        }
}

/* Where the row of a pair of atoms is in a tensor [B, N, N, P]. */
INLINE long row_of(const PairEncoding *e, long pair) {
    const long molecule = pair / (e->A * e->A), i = pair / e->A % e->A, j = pair % e->A;
    return ((molecule * e->N + i + 1) * e->N + j + 1) * e->P;
}

/* size: ..., rows of the two embeddings. tensor: ..., the virtual pairs' vector [P]; kept: hidden [B, A, A, G] before
 * GELU; y [B, N, N, P]. */
void pair_encoding(const long *size, float *const *tensor) {
    Space *space = open_space();
    const PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *virtual_P = tensor[12];
    float *y = tensor[14];
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0) memcpy(y + row * e.P, virtual_P, 4 * e.P);
    for (long first = 0; first < e.pairs; first += BLOCK) {
        const long count = smaller(BLOCK, e.pairs - first);
        if (e.G) {
            densities(&e, first, count);
            multiply(BLOCK, e.Gp, e.G, e.density, e.Gp, 1, e.up_GG, e.Gp, e.up_bias, e.hidden, e.Gp, 0);
            put_rows(tensor[13], first, count, e.G, e.hidden);
            for (long i = 0; i < BLOCK * e.Gp; i += LANES) store(e.hidden + i, gelu(load(e.hidden + i)));
            multiply(BLOCK, e.Pp, e.G, e.hidden, e.Gp, 1, e.down_GP, e.Pp, e.down_bias, e.row, e.Pp, 0);
        }
        for (long r = 0; r < count; r++) {
            const int32_t shown = e.shown[first + r], *code = e.bond_code + (first + r) * NUM_BOND_FEATURES;
            float *row = e.row + r * e.Pp;
            if (!e.G || !(shown & SHOWN_DISTANCE)) memset(row, 0, 4 * e.Pp);
            if (shown & SHOWN_PATH) add_to(row, e.path + e.path_code[first + r] * e.Pp, e.Pp);
            if (shown & SHOWN_EDGE)
                for (long c = 0; c < e.Pp; c += LANES) {
                    const vec sum = load(e.bond + code[0] * e.Pp + c) + load(e.bond + code[1] * e.Pp + c);
                    const vec mean = (sum + load(e.bond + code[2] * e.Pp + c)) / (float)NUM_BOND_FEATURES;
                    store(row + c, load(row + c) + mean);
                }
            memcpy(y + row_of(&e, first + r), row, 4 * e.P);
        }
    }
}

typedef struct {
    const float *up_GG, *down_PG; /* as they are */
    float *bond, *path, *up, *up_bias, *down, *down_bias, *grad_hidden, *slope;
} PairEncodingGradients;

/* Through the map of the densities: adds to its weights' gradients and writes that of x. */
static void backward_of_distances(const PairEncoding *e, PairEncodingGradients *d, const float *hidden, long first,
                                  long count, float *grad_x) {
    const long Gp = e->Gp, Pp = e->Pp;
    densities(e, first, count);
    memset(e->density + count * Gp, 0, 4 * (BLOCK - count) * Gp);
    hidden = get_rows(hidden, first, count, e->G, e->hidden);
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
        grad_x[first + r] = -sum_of(sum) * e->per_spacing;
    }
}

/* tensor: as of pair_encoding up to what is shown, grad of y, hidden; gradients of x, W₁, b₁, W₂, b₂, of the
 * embeddings of bonds and of paths, and of the virtual pairs' vector. */
void pair_encoding_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    PairEncoding e = pair_encoding_of(space, size, tensor);
    const float *grad = tensor[12], *hidden = tensor[13];
    PairEncodingGradients d = {
        .up_GG = pack(space, tensor[3], e.G, e.G), .down_PG = pack(space, tensor[5], e.P, e.G),
        .bond = take(space, size[4] * e.Pp), .path = take(space, size[5] * e.Pp),
        .up = take(space, e.Gp * e.Gp), .up_bias = take(space, e.Gp),
        .down = take(space, e.Pp * e.Gp), .down_bias = take(space, e.Pp),
        .grad_hidden = take(space, BLOCK * e.Gp), .slope = take(space, BLOCK * e.Gp),
    };
    for (long first = 0; first < e.pairs; first += BLOCK) {
        const long count = smaller(BLOCK, e.pairs - first);
        memset(e.row, 0, 4 * BLOCK * e.Pp);
        for (long r = 0; r < count; r++) {
            const int32_t shown = e.shown[first + r], *code = e.bond_code + (first + r) * NUM_BOND_FEATURES;
            float *row = e.row + r * e.Pp;
            memcpy(row, grad + row_of(&e, first + r), 4 * e.P);
            if (shown & SHOWN_PATH) add_to(d.path + e.path_code[first + r] * e.Pp, row, e.Pp);
            for (int f = 0; f < NUM_BOND_FEATURES && (shown & SHOWN_EDGE); f++) {
                float *to = d.bond + code[f] * e.Pp;
                for (long c = 0; c < e.Pp; c += LANES)
                    store(to + c, load(to + c) + load(row + c) / (float)NUM_BOND_FEATURES);
            }
            if (!(shown & SHOWN_DISTANCE)) memset(row, 0, 4 * e.P);
        }
        if (e.G) backward_of_distances(&e, &d, hidden, first, count, tensor[14]);
    }
    unpack(tensor[15], d.up, e.G, e.G);
    unpack(tensor[16], d.up_bias, 1, e.G);
    unpack(tensor[17], d.down, e.P, e.G);
    unpack(tensor[18], d.down_bias, 1, e.P);
    memset(d.bond, 0, 4 * e.Pp);
    memset(d.path, 0, 4 * e.Pp);
    unpack(tensor[19], d.bond, size[4], e.P);
    unpack(tensor[20], d.path, size[5], e.P);
    memset(tensor[21], 0, 4 * e.P);
    for (long row = 0; row < size[0] * e.N * e.N; row++)
        if (row % e.N == 0 || row / e.N % e.N == 0)
            for (long p = 0; p < e.P; p++) tensor[21][p] += grad[row * e.P + p];
}

#endif
