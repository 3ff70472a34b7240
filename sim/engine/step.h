// One op over a batch of images.
#ifndef HWQ_ENGINE_STEP_H
#define HWQ_ENGINE_STEP_H

#include "audit.h"
#include "conv.h"
#include "pools.h"
#include "requant.h"

namespace hwq::engine {

constexpr int64_t REQUANT_STRIP = 2048; // codes

inline bool is(const Op &op, Kind kind) { return static_cast<Kind>(op.kind) == kind; }
inline bool is_sum(const Op &op) { return is(op, Kind::CONV) || is(op, Kind::LINEAR); }

// Tensors of a batch: where each op's output lies.
struct Tensors {
  const Op *ops;
  char *const *data;
  int64_t images;
  Audit *audits; // one an op, or null

  void *of(int64_t i) const { return data[i]; }
  Audit *audit(int64_t i) const { return audits ? audits + i : nullptr; }
};

// Sums as they are.
struct StoreSums : Finish {
  void *out;
  Type type;
  int64_t channels;

  StoreSums(void *out_, const Op &op) : out(out_), type(type_of(op)), channels(op.shape[2]) {}
  void operator()(int64_t first, int64_t pixels, Rows<const void *> sums) const override {
    convert(sums, {static_cast<char *>(out) + first * channels * type_bytes(type), type, channels}, pixels, channels);
  }
};

inline void run_sums(const Tensors &t, int64_t i, Scratch &scratch) {
  const Op &op = t.ops[i], &source = t.ops[op.input[0]];
  const Conv conv(op, source, t.images);
  const ConvBuffers buffers(conv, scratch);
  if (t.data) convolve(conv, t.of(op.input[0]), type_of(source), buffers, StoreSums(t.of(i), op));
}

// Codes of a strip; input number `fused`, unless that is -1, is the sums that are handed over.
struct Requantise : Finish {
  const Tensors &t;
  const int64_t i;
  const int fused;
  Rows<const void *> *terms;
  RequantBuffers buffers;
  AuditBuffers audited;

  Requantise(const Tensors &t_, int64_t i_, int fused_, int64_t pixels, Scratch &scratch)
      : t(t_), i(i_), fused(fused_), terms(scratch.take<Rows<const void *>>(t.ops[i].inputs)),
        buffers(t.ops[i], pixels, scratch), audited(t.ops[i], t.audit(i), pixels, scratch) {}
  void operator()(int64_t first, int64_t pixels, Rows<const void *> sums) const override {
    const Op &op = t.ops[i];
    const int64_t channels = op.shape[2];
    const auto at = [&](int64_t k) {
      const Type type = type_of(t.ops[k]);
      return Rows<void *>{static_cast<char *>(t.of(k)) + first * channels * type_bytes(type), type, channels};
    };
    for (int n = 0; n < op.inputs; ++n) {
      if (n == fused) {
        terms[n] = sums;
        continue;
      }
      const Rows<void *> rows = at(op.input[n]);
      terms[n] = {rows.data, rows.type, rows.step};
    }
    requant_strip(op, terms, pixels, buffers, at(i).data);
    if (audited.exact) audit_strip(op, terms, pixels, at(i).data, audited, *t.audit(i));
  }
};

inline void run_requant(const Tensors &t, int64_t i, int fused, Scratch &scratch) {
  const Op &op = t.ops[i];
  if (fused >= 0) {
    const Op &sum = t.ops[op.input[fused]], &source = t.ops[sum.input[0]];
    const Conv conv(sum, source, t.images);
    const ConvBuffers sums(conv, scratch);
    const Requantise finish(t, i, fused, conv.strip_pixels(), scratch);
    if (t.data) convolve(conv, t.of(sum.input[0]), type_of(source), sums, finish);
    return;
  }
  const int64_t all = t.images * pixels_of(op), fitting = REQUANT_STRIP / op.shape[2] + 1;
  const int64_t size = all < fitting ? all : fitting;
  const Requantise finish(t, i, fused, size, scratch);
  for (int64_t first = 0; t.data && first < all; first += size) finish(first, size < all - first ? size : all - first, {});
}

// `fused`: as above. With null data in `t` nothing runs: `scratch` then counts what the step needs.
inline void run_step(const Tensors &t, int64_t i, int fused, Scratch &scratch) {
  const Op &op = t.ops[i];
  const Kind kind = static_cast<Kind>(op.kind);
  if (kind == Kind::CONV || kind == Kind::LINEAR) return run_sums(t, i, scratch);
  if (kind == Kind::REQUANT) return run_requant(t, i, fused, scratch);
  int64_t *const line = scratch.take<int64_t>(op.shape[2]);
  if (!t.data || op.inputs == 0) return;
  const Op &source = t.ops[op.input[0]];
  const void *const in = t.of(op.input[0]);
  switch (kind) {
  case Kind::MAX_POOL: return max_pool(op, source, in, t.of(i), t.images);
  case Kind::SUM_POOL: return sum_pool(op, source, in, t.of(i), t.images, line);
  case Kind::PAD: return pad(op, source, in, t.of(i), t.images);
  case Kind::CONCAT: {
    char *to = static_cast<char *>(t.of(i));
    for (int n = 0; n < op.inputs; ++n) {
      const Op &part = t.ops[op.input[n]];
      convert({t.of(op.input[n]), type_of(part), part.shape[2]}, {to, type_of(op), op.shape[2]}, t.images * pixels_of(op),
              part.shape[2]);
      to += part.shape[2] * type_bytes(type_of(op));
    }
    return;
  }
  default: return; // an alias lies where its input lies
  }
}

} // namespace hwq::engine

#endif
