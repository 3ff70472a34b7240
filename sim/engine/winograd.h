// Winograd's F(4x4, 3x3) in integers: 36 products for 16 outputs instead of 144, and exact.
//
// With Lavin's matrices B, G, A (arXiv:1509.09308) the outputs of a tile are
//   Y = A^T [ sum_c (G w G^T) . (B^T d B) ] A.
// G's rows are scaled to integers by 24, 6, 6, 24, 24, 6, so output row i carries the factor 3 * 2^e_i with
// e = 3, 2, 1, 1, and output (i, j) the factor 9 * 2^(e_i + e_j), 64 * 9 at most. All sums are taken modulo 2^32, where a
// ring's laws hold: times the inverse of 9, then an arithmetic shift by e_i + e_j, gives the true sum wherever
// |sum| < 2^25. Two facts keep the products whole: |B^T d B| <= 100 max|d| and |G w G^T| <= 49 max|w| must fit
// int16. hwq/engine/methods.py takes this method only where all three hold.
#ifndef HWQ_ENGINE_WINOGRAD_H
#define HWQ_ENGINE_WINOGRAD_H

#include "dot.h"

namespace hwq::engine {

constexpr int TILE = 4, PATCH = 6, SPOTS = PATCH * PATCH;
constexpr int LOG_SCALE[TILE] = {3, 2, 1, 1};
constexpr uint32_t INVERSE_OF_9 = 0x38E38E39u;
static_assert(INVERSE_OF_9 * 9u == 1u, "modulo 2^32");

// B^T d for six vectors of int16, `step` apart.
inline void to_spots(const Vec *d, int step, Vec *t) {
  const Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Vec w = sub16(d4, d2), e = sub16(d3, d1), z = add16(e, e);
  const Vec u = sub16(d4, left16<2>(d2)), v = sub16(d3, left16<2>(d1));
  t[0] = add16(left16<2>(sub16(d0, d2)), w);
  t[step] = add16(u, v);
  t[2 * step] = sub16(u, v);
  t[3 * step] = add16(w, z);
  t[4 * step] = sub16(w, z);
  t[5 * step] = sub16(sub16(d5, d3), left16<2>(e));
}

// A^T m for six vectors of int32, `step` apart; four come out.
inline void from_spots(const Vec *m, int step, Vec *y) {
  const Vec m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step];
  const Vec a = add(m1, m2), b = sub(m1, m2), c = add(m3, m4), d = sub(m3, m4);
  y[0] = add(m[0], add(left<2>(a), c));
  y[step] = add(add(b, b), d);
  y[2 * step] = add(a, c);
  y[3 * step] = add(add(b, add(d, d)), m[5 * step]);
}

// patch: int16 (6, 6, channels), `row_step` values from row to row. spots: (36, spot_step).
inline void tile_to_spots(const int16_t *patch, int64_t row_step, int64_t channels, int16_t *spots, int64_t spot_step) {
  for (int64_t c = 0; c < channels; c += 2 * LANES) {
    Vec d[SPOTS], t[SPOTS];
    for (int i = 0; i < PATCH; ++i)
      for (int j = 0; j < PATCH; ++j) d[i * PATCH + j] = load(patch + i * row_step + j * channels + c);
    for (int j = 0; j < PATCH; ++j) to_spots(d + j, PATCH, t + j);
    for (int i = 0; i < PATCH; ++i) to_spots(t + i * PATCH, 1, d + i * PATCH);
    for (int k = 0; k < SPOTS; ++k) store(spots + k * spot_step + c, d[k]);
  }
}

template <int I, int J> inline void tile_output(const Vec *y, int32_t *acc, int64_t row_step, int64_t acc_step) {
  const Vec whole = mul(y[I * PATCH + J], all(static_cast<int32_t>(INVERSE_OF_9)));
  store(acc + I * row_step + J * acc_step, right<LOG_SCALE[I] + LOG_SCALE[J]>(whole));
}

template <int I> inline void tile_outputs(const Vec *y, int32_t *acc, int64_t row_step, int64_t acc_step, int64_t columns) {
  tile_output<I, 0>(y, acc, row_step, acc_step);
  if (columns > 1) tile_output<I, 1>(y, acc, row_step, acc_step);
  if (columns > 2) tile_output<I, 2>(y, acc, row_step, acc_step);
  if (columns > 3) tile_output<I, 3>(y, acc, row_step, acc_step);
}

// sums: int32 (36, vectors * LANES). acc: rows x columns of the tile, acc_step int32 from position to position.
inline void tile_from_spots(const int32_t *sums, int64_t vectors, int32_t *acc, int64_t row_step, int64_t acc_step,
                            int64_t rows, int64_t columns) {
  for (int64_t v = 0; v < vectors; ++v, sums += LANES, acc += LANES) {
    Vec m[SPOTS], y[SPOTS];
    for (int k = 0; k < SPOTS; ++k) m[k] = load(sums + k * vectors * LANES);
    for (int j = 0; j < PATCH; ++j) from_spots(m + j, PATCH, y + j);
    for (int i = 0; i < TILE; ++i) from_spots(y + i * PATCH, 1, m + i * PATCH);
    tile_outputs<0>(m, acc, row_step, acc_step, columns);
    if (rows > 1) tile_outputs<1>(m, acc, row_step, acc_step, columns);
    if (rows > 2) tile_outputs<2>(m, acc, row_step, acc_step, columns);
    if (rows > 3) tile_outputs<3>(m, acc, row_step, acc_step, columns);
  }
}

} // namespace hwq::engine

#endif
