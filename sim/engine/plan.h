// What Python hands over: a network as a flat list of ops. Plain data; every pointer is Python's own memory.
#ifndef HWQ_ENGINE_PLAN_H
#define HWQ_ENGINE_PLAN_H

#include <stddef.h>
#include <stdint.h>

namespace hwq::engine {

// How a tensor is kept between ops: the smallest that holds its proved bound.
enum class Type : int32_t { U8, S8, S16, S32, S64 };

enum class Kind : int32_t { INPUT, CONV, LINEAR, REQUANT, MAX_POOL, SUM_POOL, PAD, CONCAT, ALIAS };

// How a CONV or LINEAR is computed, and how a REQUANT. Python chooses from proved bounds (hwq/engine/methods.py).
enum class Method : int32_t {
  NONE,
  PLAIN,     // int64 sums of anything
  WORDS,     // 16-bit codes times 16-bit weights into int32
  BYTES,     // u8 codes times s8 weights into int32 (VNNI)
  WINOGRAD,  // 3x3, stride 1: F(4x4, 3x3) in integers
  DEPTHWISE, // a channel each, int32
  NARROW,    // requantisation: 32x32-bit products, 64-bit sums, 32-bit quotients; one or two terms
  HIGH,      // NARROW with 2^32 as divisor in every channel: the quotient is the sum's upper half
  FILTERED,  // HIGH with constants cut to its widths; quotients that these leave in doubt are computed again, WIDE
  LONG,      // 64-bit products and sums
  WIDE       // 128-bit products and sums
};

// Layouts of the packed arrays stand beside the kernels that read them. The same struct in hwq/engine/plan.py.
struct Op {
  int32_t kind, type, method, inputs;
  int32_t shape[3]; // H, W, C of the output; a vector of N is 1, 1, N
  int32_t kernel[2], stride[2], padding[4], dilation[2]; // padding: top, bottom, left, right
  int32_t groups;
  int32_t readers;    // ops that read it; one that reads it twice counts twice
  int32_t before;     // PAD: channels of 0 before the input's
  int32_t flip;       // BYTES: what turns codes into u8 by exclusive or: 0x80 for signed ones, else 0
  int32_t kept_bytes; // of a code where Python keeps the output: 1, 2, 4 or 8
  int32_t lift;       // HIGH, FILTERED: bits that the second term's codes are shifted left by
  int32_t wide;       // PLAIN: codes and weights of 64 bits, else 32; WIDE: multipliers of 128 bits, else 64
  const int32_t *input; // indices of earlier ops
  const void *weights;
  const int32_t *start; // accumulators' first values, or null for 0
  const void *multipliers, *bias, *shift;
  const int32_t *minus;
  const uint32_t *doubt;
  const Op *exact; // FILTERED: the same op for WIDE
  int64_t lo, hi;
};

constexpr int64_t SLACK = 64; // bytes after every buffer that a whole-vector access may touch

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

inline int64_t type_bytes(Type type) {
  switch (type) {
  case Type::U8:
  case Type::S8: return 1;
  case Type::S16: return 2;
  case Type::S32: return 4;
  case Type::S64: return 8;
  }
  return 8;
}

inline int64_t top(const Op &op) { return op.padding[0]; }
inline int64_t left(const Op &op) { return op.padding[2]; }
inline int64_t right(const Op &op) { return op.padding[3]; }
inline Type type_of(const Op &op) { return static_cast<Type>(op.type); }
inline int64_t pixels_of(const Op &op) { return int64_t(op.shape[0]) * op.shape[1]; }
inline int64_t size_of(const Op &op) { return pixels_of(op) * op.shape[2]; }

} // namespace hwq::engine

#endif
