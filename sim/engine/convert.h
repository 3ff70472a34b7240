// Rows of integers from one type to another. Values fit the narrower type: that is proved before.
#ifndef HWQ_ENGINE_CONVERT_H
#define HWQ_ENGINE_CONVERT_H

#include <string.h>

#include <type_traits>

#include "plan.h"

namespace hwq::engine {

// Calls f with a null pointer of the type's C++ integer.
template <class F> inline void with_type(Type type, F f) {
  switch (type) {
  case Type::U8: return f(static_cast<const uint8_t *>(nullptr));
  case Type::S8: return f(static_cast<const int8_t *>(nullptr));
  case Type::S16: return f(static_cast<const int16_t *>(nullptr));
  case Type::S32: return f(static_cast<const int32_t *>(nullptr));
  case Type::S64: return f(static_cast<const int64_t *>(nullptr));
  }
}

// A block of rows x columns values; `step` values from one row to the next.
template <class P> struct Rows {
  P data = nullptr;
  Type type = Type::S32;
  int64_t step = 0;
};

template <class S, class D>
inline void convert_rows(const S *s, int64_t s_step, D *d, int64_t d_step, int64_t rows, int64_t columns) {
  if (s_step == columns && d_step == columns) columns *= rows, rows = 1;
  for (int64_t r = 0; r < rows; ++r, s += s_step, d += d_step)
    for (int64_t c = 0; c < columns; ++c) d[c] = static_cast<D>(s[c]);
}

__attribute__((noinline)) inline void convert(Rows<const void *> from, Rows<void *> to, int64_t rows, int64_t columns) {
  with_type(from.type, [&](auto *s) {
    with_type(to.type, [&](auto *d) {
      using S = std::remove_const_t<std::remove_pointer_t<decltype(s)>>;
      using D = std::remove_const_t<std::remove_pointer_t<decltype(d)>>;
      convert_rows(static_cast<const S *>(from.data), from.step, static_cast<D *>(to.data), to.step, rows, columns);
    });
  });
}

// The type that Python keeps an output in, by its size; unsigned ones hold the same bits.
inline Type kept_type(int64_t bytes) {
  return bytes == 1 ? Type::S8 : bytes == 2 ? Type::S16 : bytes == 4 ? Type::S32 : Type::S64;
}

} // namespace hwq::engine

#endif
