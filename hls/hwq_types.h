// Integer types of exactly the proved width.
//   default        AMD's ap_int / ap_uint: synthesis and the reference C simulation
//   -DHWQ_NATIVE   the smallest built-in integer that holds the width, for speed. The bits are the
//                  same because no value leaves its type: every width is proved when code is emitted.
// HWQ_PICK(folded, unfolded): a CPU has no processing elements, so the native build runs every loop
// unfolded (-DHWQ_FOLDED keeps the folding). That changes the schedule, never a value.
#ifndef HWQ_TYPES_H
#define HWQ_TYPES_H

#include <stdint.h>

namespace hwq {
namespace detail {

// BYTES is 1, 2, 4, 8 or 16
template <int BYTES> struct builtin;
template <> struct builtin<1> { typedef int8_t s; typedef uint8_t u; };
template <> struct builtin<2> { typedef int16_t s; typedef uint16_t u; };
template <> struct builtin<4> { typedef int32_t s; typedef uint32_t u; };
template <> struct builtin<8> { typedef int64_t s; typedef uint64_t u; };
#ifdef HWQ_NATIVE
template <> struct builtin<16> { typedef __int128 s; typedef unsigned __int128 u; };
#endif

template <int BITS> struct bytes {
  static_assert(BITS >= 1 && BITS <= 128, "built-in integers have 1..128 bits");
  static const int value = BITS <= 8 ? 1 : BITS <= 16 ? 2 : BITS <= 32 ? 4 : BITS <= 64 ? 8 : 16;
};

} // namespace detail
} // namespace hwq

#ifdef HWQ_NATIVE

namespace hwq {

template <int BITS> using sint = typename detail::builtin<detail::bytes<BITS>::value>::s;
template <int BITS> using uint = typename detail::builtin<detail::bytes<BITS>::value>::u;

// What a sum of BITS bits is computed in: at least an int, as C++ promotes.
template <int BITS> using work = sint<(BITS < 32 ? 32 : BITS)>;

} // namespace hwq

#else

#include <ap_fixed.h>
#include <ap_int.h>

namespace hwq {

template <int BITS> using sint = ap_int<BITS>;
template <int BITS> using uint = ap_uint<BITS>;
template <int BITS> using work = ap_int<BITS>;

} // namespace hwq

#endif

#if defined(HWQ_NATIVE) && !defined(HWQ_FOLDED)
#define HWQ_PICK(folded, unfolded) (unfolded)
#else
#define HWQ_PICK(folded, unfolded) (folded)
#endif

namespace hwq {

// What one stream transfer carries: LANES channels of one pixel.
template <class T, int LANES> struct word {
  typedef T type;
  static const int lanes = LANES;
  T v[LANES];
};

} // namespace hwq

#endif
