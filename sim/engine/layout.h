// Where each op's output lies during a batch: room is used again as soon as its last reader is done.
#ifndef HWQ_ENGINE_LAYOUT_H
#define HWQ_ENGINE_LAYOUT_H

#include <vector>

#include "step.h"

namespace hwq::engine {

struct Layout {
  std::vector<int64_t> place; // byte of each op's output; -1 for sums that are never stored
  std::vector<int> fused;     // which input of a requantisation is computed on the way, else -1
  int64_t tensors = 0;        // bytes of all places
  int64_t scratch = 0;        // bytes that the neediest step takes besides

  // kept: per op, not 0 where its output is wanted. audits: as of `Tensors`.
  Layout(const Op *ops, int64_t count, const uint8_t *kept, int64_t images, Audit *audits) : place(count, -1), fused(count, -1) {
    std::vector<int64_t> root(count), last(count); // whose room an op shares; who reads that room last
    std::vector<bool> stored(count, true);
    for (int64_t i = 0; i < count; ++i) {
      root[i] = is(ops[i], Kind::ALIAS) ? root[ops[i].input[0]] : i;
      last[root[i]] = i;
      for (int n = 0; n < ops[i].inputs; ++n) {
        const int64_t source = ops[i].input[n];
        if (fused[i] < 0 && fusible(ops, i, source, kept)) {
          fused[i] = n, stored[source] = false;
          last[root[ops[source].input[0]]] = i;
        }
        last[root[source]] = i;
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      if (root[i] != i) place[i] = place[root[i]];
      else if (stored[i]) place[i] = lowest(ops, last, i, images);
      Scratch counted(nullptr);
      if (stored[i]) run_step({ops, nullptr, images, audits}, i, fused[i], counted);
      if (counted.used() > scratch) scratch = counted.used();
    }
  }

  bool stored(int64_t i) const { return place[i] >= 0; }
  int64_t bytes() const { return tensors + scratch; }

private:
  // int32 sums that only op i reads, once, and that nobody wants to see
  static bool fusible(const Op *ops, int64_t i, int64_t source, const uint8_t *kept) {
    return is(ops[i], Kind::REQUANT) && is_sum(ops[source]) && static_cast<Method>(ops[source].method) != Method::PLAIN &&
           ops[source].readers == 1 && !kept[source];
  }

  static int64_t bytes_of(const Op &op, int64_t images) {
    return round_up(images * size_of(op) * type_bytes(type_of(op)) + SLACK, 64);
  }

  // The lowest place that overlaps nothing still to be read when op i runs.
  int64_t lowest(const Op *ops, const std::vector<int64_t> &last, int64_t i, int64_t images) {
    const int64_t size = bytes_of(ops[i], images);
    int64_t at = 0;
    for (int64_t k = 0; k < i; ++k) {
      if (place[k] < 0 || is(ops[k], Kind::ALIAS) || last[k] < i) continue;
      const int64_t end = place[k] + bytes_of(ops[k], images);
      if (at < end && place[k] < at + size) at = end, k = -1; // what was passed may collide now
    }
    if (at + size > tensors) tensors = at + size;
    return at;
  }
};

} // namespace hwq::engine

#endif
