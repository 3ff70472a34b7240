// Counts codes that differ from those of real-valued constants, on the strip that was just requantised.
//
// The reference is float64: clamp(floor(((x_0 M_0 + x_1 M_1) + B) + half), lo, hi), each product and sum rounded once. So
// nothing here may be contracted into fused multiply-adds (-ffp-contract=off), and every path counts alike.
#ifndef HWQ_ENGINE_AUDIT_H
#define HWQ_ENGINE_AUDIT_H

#include <math.h>

#include "convert.h"
#include "scratch.h"

namespace hwq::engine {

__extension__ typedef unsigned __int128 uint128;

// Of one requantisation; the same struct in hwq/engine/plan.py. A batch adds to what it finds in the counts.
struct Audit {
  const double *multipliers, *bias; // [term][C], [C]; multipliers are null where nothing is counted
  double half, lo, hi;
  int64_t wrong;
  uint64_t reference[2], difference[2]; // sums of squares of the reference codes and of the differences: low half, high
};

struct AuditBuffers {
  double *exact = nullptr;                                              // (pixels, C)
  double *wrong = nullptr, *reference = nullptr, *difference = nullptr; // of a strip, a channel each

  AuditBuffers(const Op &op, const Audit *audit, int64_t pixels, Scratch &scratch) {
    if (!audit || !audit->multipliers) return;
    exact = scratch.take<double>(pixels * op.shape[2]);
    wrong = scratch.take<double>(op.shape[2]);
    reference = scratch.take<double>(op.shape[2]);
    difference = scratch.take<double>(op.shape[2]);
  }
};

inline void add_to(uint64_t *sum, uint128 value) {
  value += (static_cast<uint128>(sum[1]) << 64) | sum[0];
  sum[0] = static_cast<uint64_t>(value), sum[1] = static_cast<uint64_t>(value >> 64);
}

// Sums of 16-bit squares over a strip's pixels are whole in a double; a channel each, they need no particular order.
template <class T>
inline void compare_narrow(const T *codes, int64_t pixels, int64_t channels, const AuditBuffers &b, Audit &audit) {
  double *__restrict wrong = b.wrong, *__restrict reference = b.reference, *__restrict difference = b.difference;
  const double *__restrict exact = b.exact;
  for (int64_t c = 0; c < channels; ++c) wrong[c] = reference[c] = difference[c] = 0;
  for (int64_t p = 0; p < pixels; ++p, exact += channels, codes += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double off = exact[c] - codes[c];
      wrong[c] += off != 0 ? 1.0 : 0.0;
      reference[c] += exact[c] * exact[c];
      difference[c] += off * off;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    audit.wrong += static_cast<int64_t>(wrong[c]);
    add_to(audit.reference, static_cast<uint64_t>(reference[c]));
    add_to(audit.difference, static_cast<uint64_t>(difference[c]));
  }
}

// Codes of 32 bits.
inline void compare_broad(const int32_t *codes, int64_t size, const AuditBuffers &b, Audit &audit) {
  uint128 reference = 0, difference = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t exact = static_cast<int64_t>(b.exact[i]), off = exact - codes[i];
    audit.wrong += off != 0;
    reference += static_cast<uint64_t>(exact * exact);
    difference += static_cast<uint128>(off < 0 ? -off : off) * static_cast<uint64_t>(off < 0 ? -off : off);
  }
  add_to(audit.reference, reference);
  add_to(audit.difference, difference);
}

// terms, pixels: as requant_strip takes them; codes: what it gave, int32 at most.
inline void audit_strip(const Op &op, const Rows<const void *> *terms, int64_t pixels, const void *codes,
                        const AuditBuffers &b, Audit &audit) {
  const int64_t channels = op.shape[2];
  for (int n = 0; n < op.inputs; ++n) {
    const double *__restrict const m = audit.multipliers + n * channels;
    with_type(terms[n].type, [&](auto *typed) {
      const auto *x = static_cast<decltype(typed)>(terms[n].data);
      double *__restrict exact = b.exact;
      for (int64_t p = 0; p < pixels; ++p, x += terms[n].step, exact += channels) {
        if (n == 0) for (int64_t c = 0; c < channels; ++c) exact[c] = static_cast<double>(x[c]) * m[c];
        else for (int64_t c = 0; c < channels; ++c) exact[c] += static_cast<double>(x[c]) * m[c];
      }
    });
  }
  double *__restrict exact = b.exact;
  const double half = audit.half, lo = audit.lo, hi = audit.hi;
  for (int64_t p = 0; p < pixels; ++p, exact += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const double code = floor((exact[c] + audit.bias[c]) + half), low = code < lo ? lo : code;
      exact[c] = low > hi ? hi : low;
    }
  }
  switch (type_of(op)) {
  case Type::U8: return compare_narrow(static_cast<const uint8_t *>(codes), pixels, channels, b, audit);
  case Type::S8: return compare_narrow(static_cast<const int8_t *>(codes), pixels, channels, b, audit);
  case Type::S16: return compare_narrow(static_cast<const int16_t *>(codes), pixels, channels, b, audit);
  default: return compare_broad(static_cast<const int32_t *>(codes), pixels * channels, b, audit);
  }
}

} // namespace hwq::engine

#endif
