/* y = [x +] W_o·softmax(q·kᵀ/√d + W_p·[LN](pairs) + b_p)·v + b_o with q, k, v of LN(x); see PairBiasedAttention.
 *
 * Nodes are computed in blocks of rows that follow one another whatever molecule they are of (compact: without those
 * between them that are padding), the rest molecule by molecule and head by head. Attention weights of a molecule of n
 * nodes are H planes of n·n; a row that is written in whole vectors spills into the next one, which is written later.
 */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "rows.h"

/* Rows that are read behind the end of a plane, and what is written behind it, n nodes wide at most. */
#define SPILL(n) (TILE_ROWS * (n) + LANES)
#define LEAST_WEIGHT 1e-30f

typedef struct {
    long B, N, D, H, P, skip;         /* skip: leading nodes of a molecule that take no part */
    long d, dp, Dp, qp, Pp, Hp, real; /* channels of a head; padded widths, q of 3D; compact rows in all */
    const float *nodes, *qkv_panels, *pair_PH, *pair_bias;
    float *copy, *normal, *y, *rstd, *out;                           /* blocks of nodes */
    float *pair_copy, *pair_normal, *pair_scaled, *pair_out, *bias; /* blocks of pairs; bias: planes */
    float *q, *k, *v, *turned, *logits, *mixed;                      /* of a molecule and head */
    Square rows;
    Norm norm, pair_norm;
    int normal_pairs;
} Attention;

/* size: molecules B, nodes N, width D, heads H, width P of pairs, nodes to skip, whether pairs have a norm, ...
 * tensor: nodes of each molecule, x [B, N, D], pairs [B, N, N, P], norm weight and bias, W_qkv [3D, D], W_p [H, P], b_p,
 * the pairs' norm weight and bias, ... */
static Attention attention_of(Space *space, const long *size, float *const *tensor) {
    Attention t = {.B = size[0], .N = size[1], .D = size[2], .H = size[3], .P = size[4], .skip = size[5]};
    t.normal_pairs = (int)size[6];
    t.d = t.D / t.H;
    t.dp = padded(t.d);
    t.Dp = padded(t.D);
    t.qp = padded(3 * t.D);
    t.Pp = padded(t.P);
    t.Hp = padded(t.H);
    t.nodes = tensor[0];
    t.rows = nodes_of(space, tensor[0], t.B, t.N, t.skip, &t.real);
    t.norm = norm_of(space, tensor[3], tensor[4], t.D);
    t.pair_norm = norm_of(space, tensor[8], tensor[9], t.normal_pairs ? t.P : 0);
    t.copy = take_raw(space, BLOCK * t.Dp);
    t.normal = take_raw(space, BLOCK * t.Dp);
    t.y = take_raw(space, BLOCK * t.Dp);
    t.rstd = take_raw(space, BLOCK);
    t.out = take_raw(space, BLOCK * t.qp);
    t.pair_copy = take_raw(space, BLOCK * t.Pp);
    t.pair_normal = take_raw(space, BLOCK * t.Pp);
    t.pair_scaled = take_raw(space, BLOCK * t.Pp);
    t.pair_out = take_raw(space, BLOCK * (t.Hp > t.Pp ? t.Hp : t.Pp));
    t.bias = take_raw(space, whole_tiles(t.H) * t.N * t.N + SPILL(t.N));
    const long rows = whole_tiles(t.N);
    t.q = take(space, rows * t.dp);
    t.k = take(space, rows * t.dp);
    t.v = take(space, rows * t.dp);
    t.turned = take(space, t.dp * padded(t.N));
    t.logits = take(space, rows * padded(t.N));
    t.mixed = take(space, rows * t.dp);
    return t;
}

INLINE long nodes_at(const Attention *t, long molecule) { return square_of(t->nodes, t->N, molecule).n - t->skip; }

/* qkv [real, 3D] of LN(x). */
static void project_nodes(const Attention *t, const float *x, float *qkv) {
    for (long first = 0; first < t->real; first += BLOCK) {
        const long count = smaller(BLOCK, t->real - first);
        standardise(&t->norm, get_rows(x, t->rows, first, count, t->D, t->copy), t->normal, t->rstd);
        affine(&t->norm, t->normal, t->normal);
        const int direct = t->qp == 3 * t->D && count == BLOCK;
        float *to = direct ? qkv + first * t->qp : t->out;
        multiply(whole_tiles(count), t->qp, t->D, t->normal, t->Dp, 1, t->qkv_panels, PANELS, NULL, to, t->qp, 0);
        if (!direct) put_rows(qkv, WHOLE, first, count, 3 * t->D, to);
    }
}

/* A block of a molecule's pairs of nodes, normal where they have a norm. */
static const float *pair_rows(const Attention *t, const float *pairs, long n, long first, long count) {
    const float *corner = pairs + (t->skip * t->N + t->skip) * t->P;
    const float *rows = get_rows(corner, (Square){t->N, n, NULL}, first, count, t->P, t->pair_copy);
    if (!t->normal_pairs) return rows;
    standardise(&t->pair_norm, rows, t->pair_normal, t->rstd);
    affine(&t->pair_norm, t->pair_normal, t->pair_scaled);
    return t->pair_scaled;
}

/* The bias of every head as planes. */
static void bias_of_pairs(const Attention *t, const float *pairs, long n) {
    for (long first = 0; first < n * n; first += BLOCK) {
        const long count = smaller(BLOCK, n * n - first);
        const float *rows = pair_rows(t, pairs, n, first, count);
        multiply(whole_tiles(count), t->Hp, t->P, rows, t->Pp, 1, t->pair_PH, t->Hp, t->pair_bias, t->pair_out, t->Hp,
                 0);
        turn(t->pair_out, count, t->H, t->Hp, t->bias + first, n * n);
    }
}

/* The columns of a head, times a factor, of n rows. */
static void get_head(const Attention *t, const float *from, long pitch, long n, float factor, float *head) {
    const long whole = t->d / LANES * LANES;
    for (long i = 0; i < n; i++) {
        for (long c = 0; c < whole; c += LANES) store(head + i * t->dp + c, load(from + i * pitch + c) * factor);
        if (whole < t->d) store(head + i * t->dp + whole, load_part(from + i * pitch + whole, t->d - whole) * factor);
    }
}

static void put_head(const Attention *t, float *to, long pitch, long n, float factor, const float *head) {
    const long whole = t->d / LANES * LANES;
    for (long i = 0; i < n; i++) {
        for (long c = 0; c < whole; c += LANES) store(to + i * pitch + c, load(head + i * t->dp + c) * factor);
        if (whole < t->d) store_part(to + i * pitch + whole, load(head + i * t->dp + whole) * factor, t->d - whole);
    }
}

/* Which lanes of a row's vector from column c on are real. */
INLINE ivec lanes_below(long left) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return lane < (int32_t)smaller(left, LANES);
}

/* softmax(logits + bias) over n columns, to planes. What is smaller than LEAST_WEIGHT counts as zero: products with
 * denormal numbers are slow. */
static void softmax(float *logits, const float *bias, long n, float *weights) {
    const long pitch = padded(n);
    for (long i = 0; i < n; i++) {
        float *row = logits + i * pitch;
        vec most = (vec){0} - 3.0e38f, sum = {0};
        for (long c = 0; c < n; c += LANES) {
            const vec value = choose(lanes_below(n - c), load(row + c) + load(bias + i * n + c), (vec){0} - 3.0e38f);
            store(row + c, value);
            most = choose(value > most, value, most);
        }
        const float top = largest_of(most);
        for (long c = 0; c < n; c += LANES) {
            const vec value = exponential(load(row + c) - top);
            const vec weight = choose(lanes_below(n - c) & ~(value < LEAST_WEIGHT), value, (vec){0});
            store(row + c, weight);
            sum += weight;
        }
        const float share = 1.0f / sum_of(sum);
        for (long c = 0; c < n; c += LANES) store(weights + i * n + c, load(row + c) * share);
    }
}

/* Attention weights [H, n, n] of a molecule whose queries, keys and values are [n, 3D]. */
static void weights_of_molecule(const Attention *t, const float *qkv, const float *pairs, long n, float *weights) {
    const float factor = 1.0f / sqrtf((float)t->d);
    bias_of_pairs(t, pairs, n);
    for (long h = 0; h < t->H; h++) {
        get_head(t, qkv + h * t->d, 3 * t->D, n, factor, t->q);
        turn(qkv + t->D + h * t->d, n, t->d, 3 * t->D, t->turned, padded(n));
        multiply(whole_tiles(n), padded(n), t->d, t->q, t->dp, 1, t->turned, padded(n), NULL, t->logits, padded(n), 0);
        softmax(t->logits, t->bias + h * n * n, n, weights + h * n * n);
    }
}

/* size: ..., residual. tensor: ..., W_o [D, D], b_o; kept: qkv [real, 3D], weights [B, H, N, N] with SPILL(N) behind
 * them, each molecule's at the start of its own, mixed values [real, D]; y [B, N, D]. */
void attention(const long *size, float *const *tensor) {
    Space *space = open_space();
    Attention t = attention_of(space, size, tensor);
    t.qkv_panels = pack_panels_transposed(space, tensor[5], 3 * t.D, t.D);
    t.pair_PH = pack_transposed(space, tensor[6], t.H, t.P);
    t.pair_bias = pack(space, tensor[7], 1, t.H);
    const float *out_DD = pack_panels_transposed(space, tensor[10], t.D, t.D), *out_bias = pack(space, tensor[11], 1, t.D);
    float *qkv = tensor[12], *mixed = tensor[14], *y = tensor[15];
    project_nodes(&t, tensor[1], qkv);
    for (long b = 0, row = 0; b < t.B; b++) {
        const long n = nodes_at(&t, b);
        float *weights = tensor[13] + b * t.H * t.N * t.N;
        weights_of_molecule(&t, qkv + row * 3 * t.D, tensor[2] + b * t.N * t.N * t.P, n, weights);
        for (long h = 0; h < t.H; h++) {
            get_head(&t, qkv + row * 3 * t.D + 2 * t.D + h * t.d, 3 * t.D, n, 1.0f, t.v);
            multiply(whole_tiles(n), t.dp, n, weights + h * n * n, n, 1, t.v, t.dp, NULL, t.mixed, t.dp, 0);
            put_head(&t, mixed + row * t.D + h * t.d, t.D, n, 1.0f, t.mixed);
        }
        row += n;
    }
    clear_nodes(y, t.nodes, t.B, t.N, t.D);
    for (long first = 0; first < t.real; first += BLOCK) {
        const long count = smaller(BLOCK, t.real - first);
        const float *rows = get_rows(mixed, WHOLE, first, count, t.D, t.copy);
        multiply(whole_tiles(count), t.Dp, t.D, rows, t.Dp, 1, out_DD, PANELS, out_bias, t.normal, t.Dp, 0);
        if (size[7]) add_to(t.normal, get_rows(tensor[1], t.rows, first, count, t.D, t.out), count * t.Dp);
        put_rows(y, t.rows, first, count, t.D, t.normal);
    }
}

#endif
