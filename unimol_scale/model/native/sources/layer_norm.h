/* y = LN(x) of nodes or pairs, and its gradients. */
#ifndef LAYER_NORM_H
#define LAYER_NORM_H

#include "rows.h"

/* size: molecules B, nodes N, width P, whether rows are pairs. tensor: nodes of each molecule, x [B, N, (N,) P], norm
 * weight and bias; y. */
void layer_norm(const long *size, float *const *tensor) {
    const long N = size[1], P = size[2], Pp = padded(P), rows_each = size[3] ? N * N : N;
    Space *space = open_space();
    const Norm norm = norm_of(space, tensor[2], tensor[3], P);
    float *copy = take_raw(space, BLOCK * Pp), *normal = take_raw(space, BLOCK * Pp), *rstd = take_raw(space, BLOCK);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], N, b), rows = size[3] ? s : WHOLE;
        const float *x = tensor[1] + b * rows_each * P;
        float *y = tensor[4] + b * rows_each * P;
        if (size[3]) clear_padding(y, s, P);
        else memset(y + s.n * P, 0, 4 * (N - s.n) * P);
        const long all = size[3] ? s.n * s.n : s.n;
        for (long first = 0; first < all; first += BLOCK) {
            const long count = smaller(BLOCK, all - first);
            standardise(&norm, get_rows(x, rows, first, count, P, copy), normal, rstd);
            affine(&norm, normal, normal);
            put_rows(y, rows, first, count, P, normal);
        }
    }
}

/* size: as above. tensor: nodes, x, norm weight and bias, grad of y; gradients of x, norm weight and bias. */
void layer_norm_backward(const long *size, float *const *tensor) {
    const long N = size[1], P = size[2], Pp = padded(P), rows_each = size[3] ? N * N : N;
    Space *space = open_space();
    Norm norm = norm_of(space, tensor[2], tensor[3], P);
    float *copy = take_raw(space, BLOCK * Pp), *normal = take_raw(space, BLOCK * Pp), *rstd = take_raw(space, BLOCK);
    float *grad_copy = take_raw(space, BLOCK * Pp), *out = take_raw(space, BLOCK * Pp);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], N, b), rows = size[3] ? s : WHOLE;
        const long start = b * rows_each * P, all = size[3] ? s.n * s.n : s.n;
        float *grad_x = tensor[5] + start;
        if (size[3]) clear_padding(grad_x, s, P);
        else memset(grad_x + s.n * P, 0, 4 * (N - s.n) * P);
        for (long first = 0; first < all; first += BLOCK) {
            const long count = smaller(BLOCK, all - first);
            standardise(&norm, get_rows(tensor[1] + start, rows, first, count, P, copy), normal, rstd);
            standardise_backward(&norm, get_rows(tensor[4] + start, rows, first, count, P, grad_copy), normal, rstd, out);
            put_rows(grad_x, rows, first, count, P, out);
        }
    }
    put_norm_gradients(&norm, tensor[6], tensor[7]);
}

#endif
