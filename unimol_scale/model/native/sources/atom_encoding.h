/* The first node representation and its gradients: the sum of a token's, a degree's and eight features' embeddings, and
 * one vector for virtual nodes; see AtomEncoding. Row 0 of an embedding is padding and has no gradient. */
#ifndef ATOM_ENCODING_H
#define ATOM_ENCODING_H

#include "rows.h"

enum { NUM_ATOM_FEATURES = 8, NUM_ATOM_CODES = NUM_ATOM_FEATURES + 2 };

typedef struct {
    long A, D, rows[3]; /* rows of the embeddings of tokens, degrees, features */
    long degree_offset, feature_offset, feature_stride, hidden_code, raw_hidden;
    const uint8_t *token, *degree, *feature, *hidden;
} AtomCodes;

/* size: molecules B, atoms A, width D, rows of the three embeddings, ...; tensor: token [B, A], degree, features
 * [B, A, 8], which molecules are hidden [B], all of one byte, ... */
static AtomCodes atom_codes_of(const long *size, float *const *tensor) {
    return (AtomCodes){
        size[1], size[2], {size[3], size[4], size[5]}, size[6], size[7], size[8], size[9], size[10],
        (const uint8_t *)tensor[0], (const uint8_t *)tensor[1], (const uint8_t *)tensor[2], (const uint8_t *)tensor[3],
    };
}

/* Where an atom's ten rows are in the three embeddings, one behind another; 0 if it is padding. */
static int find_rows(const AtomCodes *t, long molecule, long atom, long *row) {
    const long at = molecule * t->A + atom;
    if (!t->token[at]) return 0;
    const int hidden = t->hidden[molecule], no_degree = hidden || t->degree[at] == t->raw_hidden;
    row[0] = t->token[at];
    row[1] = t->rows[0] + (no_degree ? t->hidden_code : t->degree[at] + t->degree_offset);
    for (long f = 0; f < NUM_ATOM_FEATURES; f++) {
        const long raw = t->feature[at * NUM_ATOM_FEATURES + f];
        const long code = raw + t->feature_offset + t->feature_stride * f;
        row[2 + f] = t->rows[0] + t->rows[1] + (hidden || raw == t->raw_hidden ? t->hidden_code : code);
    }
    return 1;
}

INLINE void add_row(float *restrict to, const float *restrict from, long width) {
    for (long c = 0; c < width; c++) to[c] += from[c];
}

/* size: ..., offset of degrees, offset and stride of features, the code of what is hidden, raw and embedded. tensor: ...,
 * embeddings of tokens, degrees and features, the virtual node's vector [D]; y [B, A + 1, D]. */
void atom_encoding(const long *size, float *const *tensor) {
    const AtomCodes t = atom_codes_of(size, tensor);
    const float *const table[] = {tensor[4], tensor[5] - t.rows[0] * t.D, tensor[6] - (t.rows[0] + t.rows[1]) * t.D};
    float *y = tensor[8];
    for (long b = 0; b < size[0]; b++) {
        memcpy(y, tensor[7], 4 * t.D);
        y += t.D;
        for (long a = 0; a < t.A; a++, y += t.D) {
            long row[NUM_ATOM_CODES];
            memset(y, 0, 4 * t.D);
            if (!find_rows(&t, b, a, row)) continue;
            for (int k = 0; k < NUM_ATOM_CODES; k++) add_row(y, table[k < 2 ? k : 2] + row[k] * t.D, t.D);
        }
    }
}

/* size: as above. tensor: ..., grad of y; gradients of the three embeddings and of the virtual node's vector. */
void atom_encoding_backward(const long *size, float *const *tensor) {
    const AtomCodes t = atom_codes_of(size, tensor);
    float *const table[] = {tensor[5], tensor[6] - t.rows[0] * t.D, tensor[7] - (t.rows[0] + t.rows[1]) * t.D};
    const float *grad = tensor[4];
    for (int k = 0; k < 3; k++) memset(tensor[5 + k], 0, 4 * t.rows[k] * t.D);
    memset(tensor[8], 0, 4 * t.D);
    for (long b = 0; b < size[0]; b++) {
        add_row(tensor[8], grad, t.D);
        grad += t.D;
        for (long a = 0; a < t.A; a++, grad += t.D) {
            long row[NUM_ATOM_CODES];
            if (!find_rows(&t, b, a, row)) continue;
            for (int k = 0; k < NUM_ATOM_CODES; k++) add_row(table[k < 2 ? k : 2] + row[k] * t.D, grad, t.D);
        }
    }
    for (int k = 0; k < 3; k++) memset(tensor[5 + k], 0, 4 * t.D);
}

#endif
