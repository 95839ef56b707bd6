/* z_ij = [x_ij +] Σ_c b_jc T_icp + k, and its gradients, with T_i = a_i·W; see OuterProductFunction. */
#ifndef OUTER_PRODUCT_H
#define OUTER_PRODUCT_H

#include "rows.h"

INLINE long whole_tiles(long rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }

/* z = a [+ b], of which only a is padded. */
INLINE void put_sum(float *z, const float *a, const float *b, long width) {
    long c = 0;
    for (; c + LANES <= width; c += LANES) store(z + c, b ? load(a + c) + load(b + c) : load(a + c));
    for (; c < width; c++) z[c] = b ? a[c] + b[c] : a[c];
}

/* size: molecules B, nodes N, width P, hidden h, residual. tensor: nodes of each molecule, x [B, N, N, P], b [B, N, h],
 * T [B, N, h, P], k [B, P]; z. */
void outer_product(const long *size, float *const *tensor) {
    const long N = size[1], P = size[2], h = size[3], Pp = padded(P), hp = padded(h), Nr = whole_tiles(N);
    Space *space = open_space();
    float *b_nh = take(space, Nr * hp), *T_hP = take(space, h * Pp), *out = take(space, Nr * Pp);
    float *constant = take(space, Pp);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], N, b);
        float *z = tensor[5] + b * N * N * P;
        clear_padding(z, s, P);
        for (long j = 0; j < s.n; j++) memcpy(b_nh + j * hp, tensor[2] + (b * N + j) * h, 4 * h);
        memcpy(constant, tensor[4] + b * P, 4 * P);
        for (long i = 0; i < s.n; i++) {
            const float *T = tensor[3] + (b * N + i) * h * P, *x = tensor[1] + (b * N + i) * N * P;
            if (Pp != P) {
                for (long c = 0; c < h; c++) memcpy(T_hP + c * Pp, T + c * P, 4 * P);
                T = T_hP;
            }
            multiply(whole_tiles(s.n), Pp, h, b_nh, hp, 1, T, Pp, constant, out, Pp, 0);
            for (long j = 0; j < s.n; j++) put_sum(z + (i * N + j) * P, out + j * Pp, size[4] ? x + j * P : NULL, P);
        }
    }
}

/* size: as above. tensor: nodes, grad of z, b, T with its channels turned and padded [B, N, P, hp]; gradients of b, T
 * and k. */
void outer_product_backward(const long *size, float *const *tensor) {
    const long N = size[1], P = size[2], h = size[3], Pp = padded(P), hp = padded(h), Nr = whole_tiles(N);
    Space *space = open_space();
    float *b_nh = take(space, Nr * hp), *copy = take(space, Nr * Pp), *grad_b_nh = take(space, Nr * hp);
    float *grad_T_hP = take(space, whole_tiles(h) * Pp), *constant = take(space, Pp);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], N, b);
        const long rows = whole_tiles(s.n);
        memset(b_nh, 0, 4 * Nr * hp);
        for (long j = 0; j < s.n; j++) memcpy(b_nh + j * hp, tensor[2] + (b * N + j) * h, 4 * h);
        memset(copy, 0, 4 * Nr * Pp);
        memset(grad_b_nh, 0, 4 * Nr * hp);
        memset(constant, 0, 4 * Pp);
        for (long i = 0; i < s.n; i++) {
            const float *grad = tensor[1] + (b * N + i) * N * P;
            if (Pp != P || rows != s.n) {
                for (long j = 0; j < s.n; j++) memcpy(copy + j * Pp, grad + j * P, 4 * P);
                grad = copy;
            }
            multiply(whole_tiles(h), Pp, s.n, b_nh, 1, hp, grad, Pp, NULL, grad_T_hP, Pp, 0);
            unpack(tensor[5] + (b * N + i) * h * P, grad_T_hP, h, P);
            multiply(rows, hp, P, grad, Pp, 1, tensor[3] + (b * N + i) * P * hp, hp, NULL, grad_b_nh, hp, 1);
            for (long c = 0; c < Pp; c += LANES) {
                vec sum = {0};
                for (long j = 0; j < s.n; j++) sum += load(grad + j * Pp + c);
                store(constant + c, load(constant + c) + sum);
            }
        }
        memset(tensor[5] + (b * N + s.n) * h * P, 0, 4 * (N - s.n) * h * P);
        unpack(tensor[4] + b * N * h, grad_b_nh, N, h);
        unpack(tensor[6] + b * P, constant, 1, P);
    }
}

#endif
