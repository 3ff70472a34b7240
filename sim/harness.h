// Runs images through the top function and records taps. Used by the test bench and the bridge.
#ifndef HWQ_HARNESS_H
#define HWQ_HARNESS_H

#include <stdint.h>

#include "hwq_tap.h"
#include "project.h"

namespace hwq {
namespace sim {

// One image: pixels in stream order (H, W, C). Returns 0; 1 when the streams did not come out even.
// result: the codes of the output, or NULL.
inline int run_image(const uint8_t *pixels, long long *result) {
  using namespace hwq_project;
  const int in_lanes = in_word::lanes, out_lanes = out_word::lanes;
  hwq::stream<in_word> in("pixels");
  hwq::stream<out_word> out("result");
  for (long long i = 0; i < ops[0].size; i += in_lanes) {
    in_word x;
    for (int l = 0; l < in_lanes; ++l) x.v[l] = pixels[i + l];
    in.write(x);
  }
  HWQ_TOP(in, out);
  long long got = 0;
  while (!out.empty()) {
    const out_word y = out.read();
    if (got + out_lanes > ops[op_count - 1].size) return 1;
    for (int l = 0; l < out_lanes; ++l, ++got) {
      if (result) result[got] = static_cast<long long>(y.v[l]);
    }
  }
  return got == ops[op_count - 1].size && in.empty() ? 0 : 1;
}

} // namespace sim
} // namespace hwq

#endif
