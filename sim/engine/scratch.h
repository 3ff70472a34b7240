// Buffers of a step, cut from the front of one block. Without a block it only counts what they need.
#ifndef HWQ_ENGINE_SCRATCH_H
#define HWQ_ENGINE_SCRATCH_H

#include "plan.h"

namespace hwq::engine {

class Scratch {
public:
  explicit Scratch(char *block) : block_(block) {}

  template <class T> T *take(int64_t count) {
    char *const place = block_ ? block_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)) + SLACK, 64);
    return reinterpret_cast<T *>(place);
  }
  int64_t used() const { return used_; }

private:
  char *block_;
  int64_t used_ = 0;
};

} // namespace hwq::engine

#endif
