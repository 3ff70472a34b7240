// Pooling over the channel-major windows of hwq_window.h: largest code, or exact sum.
#ifndef HWQ_POOL_H
#define HWQ_POOL_H

#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: in_t, out_t; words: output words an image; taps = kernel_h * kernel_w; lanes.
template <class CFG>
void max_pool(stream<word<typename CFG::in_t, CFG::lanes> > &in, stream<word<typename CFG::out_t, CFG::lanes> > &out) {
  for (int p = 0; p < CFG::words; ++p) {
    word<typename CFG::out_t, CFG::lanes> best;
    HWQ_PACK(best)
    for (int k = 0; k < CFG::taps; ++k) {
      HWQ_PIPELINE
      const word<typename CFG::in_t, CFG::lanes> x = in.read();
      for (int l = 0; l < CFG::lanes; ++l) {
        HWQ_UNROLL
        if (k == 0 || x.v[l] > best.v[l]) best.v[l] = x.v[l];
      }
      if (k == CFG::taps - 1) out.write(best);
    }
  }
}

template <class CFG>
void sum_pool(stream<word<typename CFG::in_t, CFG::lanes> > &in, stream<word<typename CFG::out_t, CFG::lanes> > &out) {
  for (int p = 0; p < CFG::words; ++p) {
    word<typename CFG::out_t, CFG::lanes> sum;
    HWQ_PACK(sum)
    for (int k = 0; k < CFG::taps; ++k) {
      HWQ_PIPELINE
      const word<typename CFG::in_t, CFG::lanes> x = in.read();
      for (int l = 0; l < CFG::lanes; ++l) {
        HWQ_UNROLL
        const typename CFG::out_t before = k == 0 ? typename CFG::out_t(0) : sum.v[l];
        sum.v[l] = before + x.v[l];
      }
      if (k == CFG::taps - 1) out.write(sum);
    }
  }
}

} // namespace hwq

#endif
