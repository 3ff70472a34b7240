// The simulation library's C interface: every op's codes for a batch of images.
#include <stddef.h>
#include <stdint.h>

#include "harness.h"

extern "C" int hwq_abi(void) { return 1; }

// pixels: count images, (H, W, C) each. taps: one pointer an op, NULL or room for count * size codes of
// the op's type. Returns 0, or 1 when an image's streams did not come out even. Safe in several threads.
extern "C" int hwq_run(const uint8_t *pixels, int64_t count, void *const *taps) {
  using namespace hwq_project;
  hwq::sim::tap_slot slots[op_count];
  int failed = 0;
  for (int64_t n = 0; n < count && !failed; ++n) {
    for (int i = 0; i < op_count; ++i) {
      char *const place = static_cast<char *>(taps[i]);
      slots[i].place = place ? place + n * ops[i].size * ops[i].bytes : NULL;
      slots[i].done = 0;
    }
    hwq::sim::taps() = slots;
    failed = hwq::sim::run_image(pixels + n * ops[0].size, NULL);
    hwq::sim::taps() = NULL;
    for (int i = 0; i < op_count; ++i) {
      if (slots[i].place && slots[i].done != static_cast<size_t>(ops[i].size)) failed = 1;
    }
#ifdef HWQ_NATIVE
    if (hwq::sim::stream_faults()) failed = 1;
    hwq::sim::stream_faults() = 0;
#endif
  }
  return failed;
}
