// Pools, and what only moves codes.
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
        const int64_t first = y * op.stride[0] - top(op), left_most = x * op.stride[1] - left(op);
        const int64_t y0 = first < 0 ? 0 : first, x0 = left_most < 0 ? 0 : left_most;
        const int64_t y1 = first + op.kernel[0] < h ? first + op.kernel[0] : h;
        const int64_t x1 = left_most + op.kernel[1] < w ? left_most + op.kernel[1] : w;
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
    // padding is less than the kernel on each side: every window has a code of its own
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

// The input's codes row by row into zeros.
inline void pad(const Op &op, const Op &source, const void *in, void *out, int64_t images) {
  const int64_t h = source.shape[0], w = source.shape[1], taken = source.shape[2], c = op.shape[2];
  const int64_t bytes = type_bytes(type_of(op)), source_row = w * taken * type_bytes(type_of(source));
  memset(out, 0, static_cast<size_t>(images * size_of(op) * bytes));
  const char *from = static_cast<const char *>(in);
  for (int64_t n = 0; n < images; ++n) {
    int64_t at = ((n * op.shape[0] + top(op)) * op.shape[1] + left(op)) * c + op.before;
    for (int64_t y = 0; y < h; ++y, from += source_row, at += op.shape[1] * c)
      convert({from, type_of(source), taken}, {static_cast<char *>(out) + at * bytes, type_of(op), c}, w, taken);
  }
}

} // namespace hwq::engine

#endif
