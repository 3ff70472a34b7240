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

// B^T d for six vectors of int16, d(0) .. d(5); put(i, vector) takes the result.
template <class Get, class Put> inline void to_spots(Get d, Put put) {
  const Vec d0 = d(0), d1 = d(1), d2 = d(2), d3 = d(3), d4 = d(4), d5 = d(5);
  const Vec w = sub16(d4, d2), e = sub16(d3, d1), z = add16(e, e);
  const Vec u = sub16(d4, left16<2>(d2)), v = sub16(d3, left16<2>(d1));
  put(0, add16(left16<2>(sub16(d0, d2)), w));
  put(1, add16(u, v));
  put(2, sub16(u, v));
  put(3, add16(w, z));
  put(4, sub16(w, z));
  put(5, sub16(sub16(d5, d3), left16<2>(e)));
}

// A^T m for six vectors of int32; four come out.
template <class Get, class Put> inline void from_spots(Get m, Put put) {
  const Vec m1 = m(1), m2 = m(2), m3 = m(3), m4 = m(4);
  const Vec a = add(m1, m2), b = sub(m1, m2), c = add(m3, m4), d = sub(m3, m4);
  put(0, add(m(0), add(left<2>(a), c)));
  put(1, add(add(b, b), d));
  put(2, add(a, c));
  put(3, add(add(b, add(d, d)), m(5)));
}

// patch: int16 (6, 6, channels), `row_step` values from row to row. spots: (36, spot_step).
inline void tile_to_spots(const int16_t *patch, int64_t row_step, int64_t channels, int16_t *spots, int64_t spot_step) {
  for (int64_t c = 0; c < channels; c += 2 * LANES, patch += 2 * LANES, spots += 2 * LANES) {
    Vec t[SPOTS];
    for (int j = 0; j < PATCH; ++j) {
      to_spots([&](int i) { return load(patch + i * row_step + j * channels); },
               [&](int i, Vec v) { t[i * PATCH + j] = v; });
    }
    for (int i = 0; i < PATCH; ++i) {
      to_spots([&](int j) { return t[i * PATCH + j]; },
               [&](int j, Vec v) { store(spots + (i * PATCH + j) * spot_step, v); });
    }
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
    Vec y[TILE * PATCH], m[TILE * PATCH];
    for (int j = 0; j < PATCH; ++j) {
      from_spots([&](int i) { return load(sums + (i * PATCH + j) * vectors * LANES); },
                 [&](int i, Vec x) { y[i * PATCH + j] = x; });
    }
    for (int i = 0; i < TILE; ++i) {
      from_spots([&](int j) { return y[i * PATCH + j]; }, [&](int j, Vec x) { m[i * PATCH + j] = x; });
    }
    tile_outputs<0>(m, acc, row_step, acc_step, columns);
    if (rows > 1) tile_outputs<1>(m, acc, row_step, acc_step, columns);
    if (rows > 2) tile_outputs<2>(m, acc, row_step, acc_step, columns);
    if (rows > 3) tile_outputs<3>(m, acc, row_step, acc_step, columns);
  }
}

} // namespace hwq::engine

#endif
