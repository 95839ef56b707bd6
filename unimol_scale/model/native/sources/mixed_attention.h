/* w_ij = Σ_h attention_hij · (v_hj · f_h) between atoms, without the virtual node, and its gradients; see CoordinateHead.
 * Pairs have a norm of their own. */
#ifndef MIXED_ATTENTION_H
#define MIXED_ATTENTION_H

#include "attention_backward.h"

/* strength[j] = v_hj · f_h of n atoms whose queries, keys and values are [n, 3D]. */
static void strengths(const Attention *t, const float *qkv, const float *force, long h, long n, float *strength) {
    for (long j = 0; j < n; j++) {
        const float *value = qkv + j * 3 * t->D + 2 * t->D + h * t->d;
        float sum = 0.0f;
        for (long c = 0; c < t->d; c++) sum += value[c] * force[h * t->d + c];
        strength[j] = sum;
    }
}

/* size: as of attention. tensor: ..., f [D]; kept: qkv [real, 3D], weights [B, H, N, N] with SPILL(N) behind them;
 * w [B, A, A], A = N − 1. */
void mixed_attention(const long *size, float *const *tensor) {
    Space *space = open_space();
    Attention t = attention_of(space, size, tensor);
    const long A = t.N - 1;
    t.qkv_panels = pack_panels_transposed(space, tensor[5], 3 * t.D, t.D);
    t.pair_PH = pack_transposed(space, tensor[6], t.H, t.P);
    t.pair_bias = pack(space, tensor[7], 1, t.H);
    float *strength = take(space, padded(A)), *qkv = tensor[11];
    project_nodes(&t, tensor[1], qkv);
    memset(tensor[13], 0, 4 * t.B * A * A);
    for (long b = 0, row = 0; b < t.B; row += nodes_at(&t, b++)) {
        const long n = nodes_at(&t, b);
        float *weights = tensor[12] + b * t.H * t.N * t.N, *y = tensor[13] + b * A * A;
        weights_of_molecule(&t, qkv + row * 3 * t.D, tensor[2] + b * t.N * t.N * t.P, n, weights);
        for (long h = 0; h < t.H; h++) {
            strengths(&t, qkv + row * 3 * t.D, tensor[10], h, n, strength);
            for (long i = 0; i < n; i++)
                for (long j = 0; j < n; j++) y[i * A + j] += weights[(h * n + i) * n + j] * strength[j];
        }
    }
}

/* From the gradient of w [n, n] of a molecule to those of the logits, in t->bias, of qkv and of f. */
static void backward_of_strengths(const Attention *t, AttentionGradients *d, const float *qkv, const float *weights,
                                  const float *grad, const float *force, long n, float *grad_qkv, float *grad_force,
                                  float *strength, float *grad_strength) {
    const long A = t->N - 1;
    for (long h = 0; h < t->H; h++) {
        const float *weight = weights + h * n * n;
        strengths(t, qkv, force, h, n, strength);
        memset(grad_strength, 0, 4 * n);
        for (long i = 0; i < n; i++)
            for (long j = 0; j < n; j++) {
                t->logits[i * padded(n) + j] = grad[i * A + j] * strength[j];
                grad_strength[j] += weight[i * n + j] * grad[i * A + j];
            }
        softmax_backward(weight, t->logits, n, t->bias + h * n * n);
        for (long j = 0; j < n; j++)
            for (long c = 0; c < t->d; c++) {
                const long at = j * 3 * t->D + 2 * t->D + h * t->d + c;
                grad_qkv[at] = grad_strength[j] * force[h * t->d + c];
                grad_force[h * t->d + c] += grad_strength[j] * qkv[at];
            }
    }
    for (long h = 0; h < t->H; h++) backward_of_logits(t, d, qkv, h, n, grad_qkv);
}

/* tensor: ..., f, qkv, weights, grad of w; gradients of x, pairs, norm weight and bias, W_qkv, W_p, b_p, the pairs' norm
 * weight and bias, f. */
void mixed_attention_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    Attention t = attention_of(space, size, tensor);
    AttentionGradients d = attention_gradients_of(space, &t, tensor, tensor[18]);
    const long A = t.N - 1;
    float *strength = take(space, 2 * padded(A)), *grad_strength = strength + padded(A);
    memset(tensor[23], 0, 4 * t.D);
    for (long b = 0, row = 0; b < t.B; row += nodes_at(&t, b++)) {
        const long n = nodes_at(&t, b), pairs = b * t.N * t.N * t.P;
        backward_of_strengths(&t, &d, tensor[11] + row * 3 * t.D, tensor[12] + b * t.H * t.N * t.N,
                              tensor[13] + b * A * A, tensor[10], n, d.qkv + row * 3 * t.D, tensor[23], strength,
                              grad_strength);
        backward_of_pairs(&t, &d, tensor[2] + pairs, n, tensor[15] + pairs);
    }
    backward_of_projection(&t, &d, tensor[1], NULL, tensor[14]);
    for (long b = 0; b < t.B; b++) memset(tensor[14] + b * t.N * t.D, 0, 4 * t.D);
    put_norm_gradients(&t.norm, tensor[16], tensor[17]);
    unpack(tensor[18], d.qkv_weight, 3 * t.D, t.D);
    unpack(tensor[19], d.pair_weight, t.H, t.P);
    memcpy(tensor[20], d.pair_bias, 4 * t.H);
    put_norm_gradients(&t.pair_norm, tensor[21], tensor[22]);
}

#endif
