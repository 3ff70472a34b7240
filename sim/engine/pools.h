// Pools, and ops that only move codes.
#ifndef HWQ_ENGINE_POOLS_H
#define HWQ_ENGINE_POOLS_H

#include "convert.h"

namespace hwq::engine {

// Calls f(first input pixel, rows, columns, output pixel) for the part of every window that lies inside an image.
template <class F> inline void each_window(const Op &op, const Op &source, int64_t images, F f) {
  const int64_t h = source.shape[0], w = source.shape[1];
  int64_t out = 0;
  for (int64_t n = 0; n < images; ++n) {
    for (int64_t y = 0; y < op.shape[0]; ++y) {
      for (int64_t x = 0; x < op.shape[1]; ++x, ++out) {
        const int64_t top = y * op.stride[0] - op.padding[0], left = x * op.stride[1] - op.padding[1];
        const int64_t y0 = top < 0 ? 0 : top, x0 = left < 0 ? 0 : left;
        const int64_t y1 = top + op.kernel[0] < h ? top + op.kernel[0] : h;
        const int64_t x1 = left + op.kernel[1] < w ? left + op.kernel[1] : w;
        f((n * h + y0) * w + x0, y1 - y0, x1 - x0, out);
      }
    }
  }
}

inline void max_pool(const Op &op, const Op &source, const void *in, void *out, int64_t images) {
  const int64_t c = op.shape[2], w = source.shape[1];
  with_type(type_of(op), [&](auto *typed) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    const T *const from = static_cast<const T *>(in);
    T *const to = static_cast<T *>(out);
    // padding is at most half a kernel: every window has a code of its own
    each_window(op, source, images, [&](int64_t first, int64_t rows, int64_t columns, int64_t pixel) {
      T *const best = to + pixel * c;
      memcpy(best, from + first * c, static_cast<size_t>(c) * sizeof(T));
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const T *const x = from + (first + i * w + j) * c;
          for (int64_t k = 0; k < c; ++k) best[k] = x[k] > best[k] ? x[k] : best[k];
        }
    });
  });
}

// line: room for one pixel's sums.
inline void sum_pool(const Op &op, const Op &source, const void *in, void *out, int64_t images, int64_t *line) {
  const int64_t c = op.shape[2], w = source.shape[1];
  with_type(type_of(source), [&](auto *typed) {
    const auto *const from = static_cast<decltype(typed)>(in);
    each_window(op, source, images, [&](int64_t first, int64_t rows, int64_t columns, int64_t pixel) {
      memset(line, 0, static_cast<size_t>(c) * sizeof(int64_t));
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const auto *const x = from + (first + i * w + j) * c;
          for (int64_t k = 0; k < c; ++k) line[k] += x[k];
        }
      char *const to = static_cast<char *>(out) + pixel * c * type_bytes(type_of(op));
      convert({line, Type::S64, c}, {to, type_of(op), c}, 1, c);
    });
  });
}

inline void channel_pad(const Op &op, const Op &source, const void *in, void *out, int64_t images) {
  const int64_t pixels = images * pixels_of(op), c = op.shape[2], bytes = type_bytes(type_of(op));
  memset(out, 0, static_cast<size_t>(pixels * c * bytes));
  convert({in, type_of(source), source.shape[2]}, {static_cast<char *>(out) + op.before * bytes, type_of(op), c}, pixels,
          source.shape[2]);
}

} // namespace hwq::engine

#endif
