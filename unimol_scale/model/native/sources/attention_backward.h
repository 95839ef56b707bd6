/* Gradients of attention; see attention.h. */
#ifndef ATTENTION_BACKWARD_H
#define ATTENTION_BACKWARD_H

#include "attention.h"

typedef struct {
    const float *qkv_panels, *pair_HP;               /* as they are */
    float *qkv, *qkv_weight, *pair_weight, *pair_bias; /* gradients: compact [real, 3D], the rest whole */
    float *out, *grad, *block;                       /* of a molecule and head [n, d]; of nodes */
} AttentionGradients;

/* qkv_weight: the tensor of that gradient. */
static AttentionGradients attention_gradients_of(Space *space, const Attention *t, float *const *tensor,
                                                 float *qkv_weight) {
    return (AttentionGradients){
        .qkv_panels = pack_panels(space, tensor[5], 3 * t->D, t->D),
        .pair_HP = pack(space, tensor[6], t->H, t->P),
        .qkv = take_raw(space, t->real * 3 * t->D),
        .qkv_weight = gradient_of(space, qkv_weight, 3 * t->D, t->D),
        .pair_weight = take(space, whole_tiles(t->H) * t->Pp),
        .pair_bias = take(space, t->H),
        .out = take(space, whole_tiles(t->N) * t->dp),
        .grad = take(space, whole_tiles(t->N) * t->dp),
        .block = take_raw(space, BLOCK * t->Dp),
    };
}

/* weights ∘ (grad − Σ weights ∘ grad) in every row of n, to planes. */
static void softmax_backward(const float *weights, const float *grad, long n, float *grad_logits) {
    for (long i = 0; i < n; i++) {
        const float *weight = weights + i * n, *row = grad + i * padded(n);
        vec along = {0};
        for (long c = 0; c < n; c += LANES)
            along += choose(lanes_below(n - c), load(weight + c) * load(row + c), (vec){0});
        const float mean = sum_of(along);
        for (long c = 0; c < n; c += LANES) store(grad_logits + i * n + c, load(weight + c) * (load(row + c) - mean));
    }
}

/* From the gradient of a head's logits, in t->bias, to those of its queries and keys; grad_qkv [n, 3D]. */
static void backward_of_logits(const Attention *t, AttentionGradients *d, const float *qkv, long h, long n,
                               float *grad_qkv) {
    const float factor = 1.0f / sqrtf((float)t->d), *logits = t->bias + h * n * n;
    get_head(t, qkv + h * t->d, 3 * t->D, n, factor, t->q);
    get_head(t, qkv + t->D + h * t->d, 3 * t->D, n, 1.0f, t->k);
    multiply(whole_tiles(n), t->dp, n, logits, n, 1, t->k, t->dp, NULL, d->grad, t->dp, 0);
    put_head(t, grad_qkv + h * t->d, 3 * t->D, n, factor, d->grad);
    multiply(whole_tiles(n), t->dp, n, logits, 1, n, t->q, t->dp, NULL, d->grad, t->dp, 0);
    put_head(t, grad_qkv + t->D + h * t->d, 3 * t->D, n, 1.0f, d->grad);
}

/* From the mixed values' gradient [n, D] to those of the logits, in t->bias, and of qkv. */
static void backward_of_mixing(const Attention *t, AttentionGradients *d, const float *qkv, const float *weights,
                               const float *grad_mixed, long n, float *grad_qkv) {
    for (long h = 0; h < t->H; h++) {
        get_head(t, grad_mixed + h * t->d, t->D, n, 1.0f, d->out);
        turn(qkv + 2 * t->D + h * t->d, n, t->d, 3 * t->D, t->turned, padded(n));
        multiply(whole_tiles(n), padded(n), t->d, d->out, t->dp, 1, t->turned, padded(n), NULL, t->logits, padded(n), 0);
        softmax_backward(weights + h * n * n, t->logits, n, t->bias + h * n * n);
        multiply(whole_tiles(n), t->dp, n, weights + h * n * n, 1, n, d->out, t->dp, NULL, d->grad, t->dp, 0);
        put_head(t, grad_qkv + 2 * t->D + h * t->d, 3 * t->D, n, 1.0f, d->grad);
    }
    for (long h = 0; h < t->H; h++) backward_of_logits(t, d, qkv, h, n, grad_qkv);
}

/* From the gradient of the bias, in planes, to that of the pairs. */
static void backward_of_pairs(Attention *t, AttentionGradients *d, const float *pairs, long n, float *grad_pairs) {
    const Square s = {t->N, n, NULL};
    if (t->skip) memset(grad_pairs, 0, 4 * t->N * t->N * t->P);
    else clear_padding(grad_pairs, s, t->P);
    for (long h = 0; h < t->H; h++) {
        float sum = 0.0f;
        for (long first = 0; first < n * n; first += n) {
            vec part = {0};
            for (long c = 0; c < n; c += LANES)
                part += choose(lanes_below(n - c), load(t->bias + h * n * n + first + c), (vec){0});
            sum += sum_of(part);
        }
        d->pair_bias[h] += sum;
    }
    for (long first = 0; first < n * n; first += BLOCK) {
        const long count = smaller(BLOCK, n * n - first);
        const float *rows = pair_rows(t, pairs, n, first, count);
        multiply(whole_tiles(count), t->Pp, t->H, t->bias + first, 1, n * n, d->pair_HP, t->Pp, NULL, t->pair_out, t->Pp,
                 0);
        multiply(whole_tiles(t->H), t->Pp, count, t->bias + first, n * n, 1, rows, t->Pp, NULL, d->pair_weight, t->Pp, 1);
        if (t->normal_pairs) {
            memset(t->pair_out + count * t->Pp, 0, 4 * (BLOCK - count) * t->Pp);
            standardise_backward(&t->pair_norm, t->pair_out, t->pair_normal, t->rstd, t->pair_out);
        }
        put_rows(grad_pairs + (t->skip * t->N + t->skip) * t->P, s, first, count, t->P, t->pair_out);
    }
}

/* From the gradient of qkv to that of x, to which grad, if there is one, is added. */
static void backward_of_projection(Attention *t, AttentionGradients *d, const float *x, const float *grad,
                                   float *grad_x) {
    clear_nodes(grad_x, t->nodes, t->B, t->N, t->D);
    for (long first = 0; first < t->real; first += BLOCK) {
        const long count = smaller(BLOCK, t->real - first), qp = t->qp, Dp = t->Dp;
        float *out = d->block;
        const float *grad_qkv = get_rows(d->qkv, WHOLE, first, count, 3 * t->D, t->out);
        standardise(&t->norm, get_rows(x, t->rows, first, count, t->D, t->copy), t->normal, t->rstd);
        affine(&t->norm, t->normal, t->y);
        multiply(whole_tiles(3 * t->D), Dp, BLOCK, grad_qkv, 1, qp, t->y, Dp, NULL, d->qkv_weight, Dp, 1);
        multiply(BLOCK, Dp, 3 * t->D, grad_qkv, qp, 1, d->qkv_panels, PANELS, NULL, out, Dp, 0);
        standardise_backward(&t->norm, out, t->normal, t->rstd, out);
        if (grad) add_to(out, get_rows(grad, t->rows, first, count, t->D, t->copy), BLOCK * Dp);
        put_rows(grad_x, t->rows, first, count, t->D, out);
    }
}

/* size: as of attention. tensor: ..., grad of y, W_o, qkv, weights, mixed; gradients of x, pairs, norm weight and bias,
 * W_qkv, W_p, b_p, W_o, b_o. */
void attention_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    Attention t = attention_of(space, size, tensor);
    AttentionGradients d = attention_gradients_of(space, &t, tensor, tensor[19]);
    const float *grad = tensor[10], *out_panels = pack_panels(space, tensor[11], t.D, t.D);
    float *grad_mixed = take_raw(space, (t.real + BLOCK) * t.D), *grad_out = gradient_of(space, tensor[22], t.D, t.D);
    float *grad_out_bias = take(space, t.Dp);
    for (long first = 0; first < t.real; first += BLOCK) {
        const long count = smaller(BLOCK, t.real - first);
        const float *rows = get_rows(grad, t.rows, first, count, t.D, t.copy);
        const float *mixed = get_rows(tensor[14], WHOLE, first, count, t.D, t.normal);
        multiply(whole_tiles(t.D), t.Dp, BLOCK, rows, 1, t.Dp, mixed, t.Dp, NULL, grad_out, t.Dp, 1);
        add_columns(rows, t.Dp, grad_out_bias);
        multiply(BLOCK, t.Dp, t.D, rows, t.Dp, 1, out_panels, PANELS, NULL, t.out, t.Dp, 0);
        put_rows(grad_mixed, WHOLE, first, count, t.D, t.out);
    }
    for (long b = 0, row = 0; b < t.B; b++) {
        const long n = nodes_at(&t, b), pairs = b * t.N * t.N * t.P;
        backward_of_mixing(&t, &d, tensor[12] + row * 3 * t.D, tensor[13] + b * t.H * t.N * t.N, grad_mixed + row * t.D,
                           n, d.qkv + row * 3 * t.D);
        backward_of_pairs(&t, &d, tensor[2] + pairs, n, tensor[16] + pairs);
        row += n;
    }
    backward_of_projection(&t, &d, tensor[1], size[7] ? grad : NULL, tensor[15]);
    put_norm_gradients(&t.norm, tensor[17], tensor[18]);
    unpack(tensor[19], d.qkv_weight, 3 * t.D, t.D);
    unpack(tensor[20], d.pair_weight, t.H, t.P);
    memcpy(tensor[21], d.pair_bias, 4 * t.H);
    unpack(tensor[22], grad_out, t.D, t.D);
    unpack(tensor[23], grad_out_bias, 1, t.D);
}

#endif
