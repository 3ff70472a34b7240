// Depthwise convolution, one output a channel: PE channels at a time.
#ifndef HWQ_DEPTHWISE_H
#define HWQ_DEPTHWISE_H

#include "hwq_mac.h"
#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: in_t, weight_t, weight_raw, acc_bits, acc_t; pixels, channels, taps = kernel_h * kernel_w; pe divides
// channels. Takes the channel-major windows of hwq_window.h. weight: [channels][taps].
template <class CFG>
void depthwise(stream<word<typename CFG::in_t, CFG::pe> > &in, stream<word<typename CFG::acc_t, CFG::pe> > &out,
               const typename CFG::weight_raw weight[CFG::channels][CFG::taps]) {
  typedef word<typename CFG::in_t, CFG::pe> in_word;
  typedef word<typename CFG::acc_t, CFG::pe> out_word;
  typedef work<CFG::acc_bits> sum_t;
  const int PE = CFG::pe;

  for (int p = 0; p < CFG::pixels; ++p) {
    for (int f = 0; f < CFG::channels / PE; ++f) {
      sum_t acc[PE];
      HWQ_REGISTERS(acc, 1)
      for (int k = 0; k < CFG::taps; ++k) {
        HWQ_PIPELINE
        const in_word x = in.read();
        for (int n = 0; n < PE; ++n) {
          HWQ_UNROLL
          sum_t sum = 0;
          if (k > 0) sum = acc[n];
          const typename CFG::weight_t w = weight[f * PE + n][k];
          mac(sum, x.v[n], w);
          acc[n] = sum;
        }
        if (k == CFG::taps - 1) {
          out_word y;
          HWQ_PACK(y)
          for (int n = 0; n < PE; ++n) {
            HWQ_UNROLL
            y.v[n] = acc[n];
          }
          out.write(y);
        }
      }
    }
  }
}

} // namespace hwq

#endif
