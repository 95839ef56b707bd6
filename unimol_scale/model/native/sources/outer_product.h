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

/* size: molecules B, nodes N, width P, hidden h, residual. tensor: x [B, N, N, P], b [B, N, h], T [B·N, h, P],
 * k [B, P]; z. */
void outer_product(const long *size, float *const *tensor) {
    const long B = size[0], N = size[1], P = size[2], h = size[3], residual = size[4];
    const long Pp = padded(P), hp = padded(h), Nr = whole_tiles(N);
    Space *space = open_space();
    float *b_Nh = take(space, Nr * hp), *T_hP = take(space, h * Pp), *out = take(space, Nr * Pp);
    float *constant = take(space, Pp);
    for (long m = 0; m < B * N; m++) {
        if (m % N == 0) {
            for (long j = 0; j < N; j++) memcpy(b_Nh + j * hp, tensor[1] + (m + j) * h, 4 * h);
            memcpy(constant, tensor[3] + m / N * P, 4 * P);
        }
        const float *T = tensor[2] + m * h * P;
        if (Pp != P) {
            for (long c = 0; c < h; c++) memcpy(T_hP + c * Pp, T + c * P, 4 * P);
            T = T_hP;
        }
        multiply(Nr, Pp, h, b_Nh, hp, 1, T, Pp, constant, out, Pp, 0);
        for (long j = 0; j < N; j++) put_sum(tensor[4] + (m * N + j) * P, out + j * Pp, residual ? tensor[0] + (m * N + j) * P : NULL, P);
    }
}

/* size: as above. tensor: grad of z, b, T with its channels turned and padded [B·N, P, hp]; gradients of b, T and k. */
void outer_product_backward(const long *size, float *const *tensor) {
    const long B = size[0], N = size[1], P = size[2], h = size[3];
    const long Pp = padded(P), hp = padded(h), Nr = whole_tiles(N), hr = whole_tiles(h);
    Space *space = open_space();
    float *b_Nh = take(space, Nr * hp), *copy = take(space, Nr * Pp);
    float *grad_b_Nh = take(space, Nr * hp), *grad_T_hP = take(space, hr * Pp), *constant = take(space, Pp);
    for (long m = 0; m < B * N; m++) {
        if (m % N == 0) {
            for (long j = 0; j < N; j++) memcpy(b_Nh + j * hp, tensor[1] + (m + j) * h, 4 * h);
            memset(grad_b_Nh, 0, 4 * Nr * hp);
            memset(constant, 0, 4 * Pp);
        }
        const float *grad = tensor[0] + m * N * P;
        if (Pp != P || Nr != N) {
            for (long j = 0; j < N; j++) memcpy(copy + j * Pp, grad + j * P, 4 * P);
            grad = copy;
        }
        multiply(hr, Pp, N, b_Nh, 1, hp, grad, Pp, NULL, grad_T_hP, Pp, 0);
        unpack(tensor[4] + m * h * P, grad_T_hP, h, P);
        multiply(Nr, hp, P, grad, Pp, 1, tensor[2] + m * P * hp, hp, NULL, grad_b_Nh, hp, 1);
        for (long c = 0; c < Pp; c += LANES) {
            vec sum = {0};
            for (long j = 0; j < N; j++) sum += load(grad + j * Pp + c);
            store(constant + c, load(constant + c) + sum);
        }
        if (m % N == N - 1) {
            unpack(tensor[3] + (m - N + 1) * h, grad_b_Nh, N, h);
            unpack(tensor[5] + m / N * P, constant, 1, P);
        }
    }
}

#endif
