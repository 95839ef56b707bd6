/* Vectors of floats in the compiler's own notation, and the functions of them that the kernels need.
 *
 * Not-a-number stays not-a-number everywhere: a step whose loss or gradient is not finite must be noticed.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#else
#define LANES 8
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *from) { return *(const vec_anywhere *)from; }

INLINE void store(float *to, vec value) { *(vec_anywhere *)to = value; }

#if LANES == 16
INLINE __mmask16 first_lanes(long count) { return (__mmask16)((1u << count) - 1u); }
#endif

/* The first ``count`` lanes, fewer than all; the others are zero. */
INLINE vec load_part(const float *from, long count) {
#if LANES == 16
    return (vec)_mm512_maskz_loadu_ps(first_lanes(count), from);
#else
    vec value = {0};
    memcpy(&value, from, 4 * count);
    return value;
#endif
}

INLINE void store_part(float *to, vec value, long count) {
#if LANES == 16
    _mm512_mask_storeu_ps(to, first_lanes(count), (__m512)value);
#else
    memcpy(to, &value, 4 * count);
#endif
}

/* memcpy of a row: a call takes longer than a copy of few vectors. */
INLINE void copy_row(float *to, const float *from, long width) {
    long c = 0;
    for (; c + LANES <= width; c += LANES) store(to + c, load(from + c));
    if (c < width) store_part(to + c, load_part(from + c, width - c), width - c);
}

/* The same with zeros behind it, up to ``pitch``. */
INLINE void copy_padded(float *to, const float *from, long width, long pitch) {
    long c = 0;
    for (; c + LANES <= width; c += LANES) store(to + c, load(from + c));
    if (c < width) store(to + c, load_part(from + c, width - c)), c += LANES;
    for (; c < pitch; c += LANES) store(to + c, (vec){0});
}

/* The sum of the lanes, always in the same order. */
INLINE float sum_of(vec value) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)value);
#else
    float lane[LANES];
    memcpy(lane, &value, sizeof lane);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
#endif
}

/* The largest lane; anything if one is not-a-number. */
INLINE float largest_of(vec value) {
    float lane[LANES], most;
    memcpy(lane, &value, sizeof lane);
    most = lane[0];
    for (int i = 1; i < LANES; i++) most = lane[i] > most ? lane[i] : most;
    return most;
}

/* condition ? a : b in every lane. */
INLINE vec choose(ivec condition, vec a, vec b) { return (vec)((condition & (ivec)a) | (~condition & (ivec)b)); }

INLINE vec at_least(vec value, float low) { return choose(value < low, low - (vec){0}, value); }

INLINE vec at_most(vec value, float high) { return choose(value > high, high - (vec){0}, value); }

/* e to the power of x, to 2 units in the last place (Cephes); never denormal. */
INLINE vec exponential(vec x) {
    x = at_most(at_least(x, -87.0f), 88.0f);
    const vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the nearest integer */
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)power;
}

/* To 1 unit in the last place: a division takes longer than all the rest of a sigmoid. */
INLINE vec reciprocal(vec x) {
#if LANES == 16
    const vec near = (vec)_mm512_rcp14_ps((__m512)x);
    return near + near * (1.0f - x * near);
#else
    return 1.0f / x;
#endif
}

INLINE vec sigmoid(vec x) { return reciprocal(1.0f + exponential(-x)); }

/* The error function by a rational approximation on [-4, 4], to 3 units in the last place (Eigen's). */
INLINE vec error_function(vec x) {
    x = at_most(at_least(x, -4.0f), 4.0f);
    const vec s = x * x;
    vec p = -2.72614225801306e-10f * s + 2.77068142495902e-08f;
    p = p * s + -2.10102402082508e-06f;
    p = p * s + -5.69250639462346e-05f;
    p = p * s + -7.34990630326855e-04f;
    p = p * s + -2.95459980854025e-03f;
    p = p * s + -1.60960333262415e-02f;
    vec q = -1.45660718464996e-05f * s + -2.13374055278905e-04f;
    q = q * s + -1.68282697438203e-03f;
    q = q * s + -7.37332916720468e-03f;
    q = q * s + -1.42647390514189e-02f;
    return x * p * reciprocal(q);
}

/* GELU with the exact normal distribution. */
INLINE vec gelu(vec x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678f)); }

/* The derivative of GELU; *value is GELU itself. */
INLINE vec gelu_slope(vec x, vec *value) {
    const vec below = 0.5f + 0.5f * error_function(x * 0.70710678f);
    *value = x * below;
    return below + x * (exponential(-0.5f * x * x) * 0.39894228f);
}

#endif
