// HWQ_TAP(index, stream): in simulation, copies what a process wrote; nothing in synthesis, not even a
// semicolon, so none follows it.
// Taps belong to the calling thread and are set before the top function is called, so two images or
// two threads never mix.
#ifndef HWQ_TAP_H
#define HWQ_TAP_H

#if !defined(HWQ_SIM) && !defined(__SYNTHESIS__)
#define HWQ_SIM 1
#endif

#if defined(__SYNTHESIS__) || !HWQ_SIM

#define HWQ_TAP(index, stream)

#else

#include <stddef.h>
#include <stdint.h>
#include <vector>

#include "hwq_stream.h"
#include "hwq_types.h"

#define HWQ_TAP(index, stream) ::hwq::sim::tap(index, stream);

namespace hwq {
namespace sim {

struct tap_slot {
  void *place; // NULL: not recorded
  size_t done; // values written
};

// The running image's slots, one an op; NULL when nothing is recorded.
inline tap_slot *&taps() {
  static thread_local tap_slot *slots = 0;
  return slots;
}

// The smallest built-in integer that holds the codes, as the C ABI says.
#ifdef HWQ_NATIVE
template <class T> struct recorded { typedef T type; };
template <class T> inline T to_builtin(const T &x) { return x; }
#else
template <class T> struct recorded;
template <int B> struct recorded<ap_int<B> > {
  static_assert(B <= 64, "taps hold 64 bits at most");
  typedef typename detail::builtin<detail::bytes<B>::value>::s type;
};
template <int B> struct recorded<ap_uint<B> > {
  static_assert(B <= 64, "taps hold 64 bits at most");
  typedef typename detail::builtin<detail::bytes<B>::value>::u type;
};
template <class T> inline int64_t to_builtin(const T &x) { return x.to_int64(); }
#endif

template <class T, int LANES> void tap(int index, stream<word<T, LANES> > &s) {
  if (!taps() || !taps()[index].place) return;
  typedef typename recorded<T>::type value_t;
  tap_slot &slot = taps()[index];
  value_t *to = static_cast<value_t *>(slot.place) + slot.done;
  std::vector<word<T, LANES> > held;
  while (!s.empty()) held.push_back(s.read());
  for (size_t i = 0; i < held.size(); ++i) {
    for (int l = 0; l < LANES; ++l) *to++ = static_cast<value_t>(to_builtin(held[i].v[l]));
    s.write(held[i]);
  }
  slot.done += held.size() * LANES;
}

} // namespace sim
} // namespace hwq

#endif
#endif
