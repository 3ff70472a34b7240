// The arithmetic of a requantisation:
//   code = clamp(floor((sum_i x_i * raw_i * 2^shift_i + raw_b * 2^shift_b + half) / 2^fraction), lo, hi)
// The sum is exact. With AMD's types its bits become an ap_fixed whose assignment to
// ap_fixed<b,b,AP_RND,AP_SAT_SYM> (or AP_TRN, or unsigned with AP_SAT) rounds and saturates; the native
// build computes the line above in integers.
#ifndef HWQ_REQUANTIZE_H
#define HWQ_REQUANTIZE_H

#include "hwq_pragmas.h"
#include "hwq_types.h"

namespace hwq {

#ifdef HWQ_NATIVE

// x * raw * 2^shift. CFG::sum_bits holds every partial sum, so nothing here can overflow.
template <class CFG, int WIDTH, class X, class RAW>
inline work<CFG::sum_bits> term(const X &x, const RAW &raw, int shift) {
  typedef work<CFG::sum_bits> sum_t;
  return static_cast<sum_t>(x) * static_cast<sum_t>(raw) * (static_cast<sum_t>(1) << shift);
}

template <class CFG, int WIDTH, class RAW> inline work<CFG::sum_bits> offset(const RAW &raw, int shift) {
  typedef work<CFG::sum_bits> sum_t;
  return static_cast<sum_t>(raw) * (static_cast<sum_t>(1) << shift);
}

// A limit brought into the range of T, which every sum lies in anyway.
template <class T> inline T within(int64_t limit) {
  const T top = (static_cast<T>(1) << (8 * sizeof(T) - 2)) - 1 + (static_cast<T>(1) << (8 * sizeof(T) - 2));
  return limit > top ? top : limit < -top ? -top : static_cast<T>(limit);
}

// fraction: of this channel's sum; CFG::fraction where all channels share it.
template <class CFG> inline typename CFG::out_t code(const work<CFG::sum_bits> &sum, int fraction) {
  typedef work<CFG::sum_bits> sum_t;
  sum_t half = 0;
  if (CFG::round_half_up && fraction > 0) half = static_cast<sum_t>(1) << (fraction - 1);
  const sum_t lo = within<sum_t>(CFG::lo()), hi = within<sum_t>(CFG::hi());
  sum_t value = (sum + half) >> fraction;
  value = value < lo ? lo : value;
  value = value > hi ? hi : value;
  return static_cast<typename CFG::out_t>(value);
}

#else

template <class CFG, int WIDTH, class X, class RAW>
inline ap_int<CFG::sum_bits> term(const X &x, const RAW &raw, int shift) {
  const ap_int<WIDTH> constant = raw;
  const ap_int<CFG::sum_bits> product = x * constant;
  return product << shift;
}

template <class CFG, int WIDTH, class RAW> inline ap_int<CFG::sum_bits> offset(const RAW &raw, int shift) {
  const ap_int<WIDTH> constant = raw;
  const ap_int<CFG::sum_bits> wide = constant;
  return wide << shift;
}

namespace detail {

template <int BITS, bool SIGNED, bool HALF_UP> struct rounded;
template <int BITS> struct rounded<BITS, true, true> { typedef ap_fixed<BITS, BITS, AP_RND, AP_SAT_SYM> type; };
template <int BITS> struct rounded<BITS, true, false> { typedef ap_fixed<BITS, BITS, AP_TRN, AP_SAT_SYM> type; };
template <int BITS> struct rounded<BITS, false, true> { typedef ap_ufixed<BITS, BITS, AP_RND, AP_SAT> type; };
template <int BITS> struct rounded<BITS, false, false> { typedef ap_ufixed<BITS, BITS, AP_TRN, AP_SAT> type; };

} // namespace detail

// fraction: of this channel's sum. Where channels differ, the sum is brought to the one fraction bit that
// decides the rounding; bits below it change neither floor nor half up.
template <class CFG> inline typename CFG::out_t code(const ap_int<CFG::sum_bits> &sum, int fraction) {
  const int bits = CFG::sum_bits + CFG::own_fractions;
  ap_int<bits> raw = sum;
  if (CFG::own_fractions) {
    raw <<= 1;
    raw >>= fraction;
  }
  ap_fixed<bits, bits - CFG::fraction> value;
  value.range(bits - 1, 0) = raw.range(bits - 1, 0);
  const typename detail::rounded<CFG::out_bits, CFG::out_signed, CFG::round_half_up>::type rounded = value;
  typename CFG::out_t y = rounded;
  if (CFG::clamps) { // the limits are not the type's own
    if (y < CFG::lo()) y = CFG::lo();
    if (y > CFG::hi()) y = CFG::hi();
  }
  return y;
}

#endif

} // namespace hwq

#endif
