// Grouped convolution of any shape: the window is taken in whole, then each output sums its group.
#ifndef HWQ_GROUPED_H
#define HWQ_GROUPED_H

#include "hwq_mac.h"
#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: as dense, and channels, groups, taps = kernel_h * kernel_w, block: elements of an input word.
// inputs = taps * channels / groups; pe divides outputs (and may span groups), simd divides
// channels / groups. weight: [outputs][inputs], kernel position first, then the group's channels.
template <class CFG>
void grouped(stream<word<typename CFG::in_t, CFG::block> > &in, stream<word<typename CFG::acc_t, CFG::pe> > &out,
             const typename CFG::weight_raw weight[CFG::outputs][CFG::inputs]) {
  typedef word<typename CFG::in_t, CFG::block> in_word;
  typedef word<typename CFG::acc_t, CFG::pe> out_word;
  typedef work<CFG::acc_bits> sum_t;
  const int PE = CFG::pe, SIMD = CFG::simd, BLOCK = CFG::block;
  const int group_in = CFG::channels / CFG::groups, group_out = CFG::outputs / CFG::groups;
  const int words = CFG::taps * CFG::channels / BLOCK, folds = group_in / SIMD;

  typename CFG::in_t held[CFG::taps * CFG::channels];
  HWQ_REGISTERS(held, 1)
  for (int p = 0; p < CFG::pixels; ++p) {
    for (int k = 0; k < words; ++k) {
      HWQ_PIPELINE
      const in_word x = in.read();
      for (int l = 0; l < BLOCK; ++l) {
        HWQ_UNROLL
        held[k * BLOCK + l] = x.v[l];
      }
    }
    for (int o = 0; o < CFG::outputs / PE; ++o) {
      sum_t acc[PE];
      HWQ_REGISTERS(acc, 1)
      for (int t = 0; t < CFG::taps; ++t) {
        for (int f = 0; f < folds; ++f) {
          HWQ_PIPELINE
          for (int n = 0; n < PE; ++n) {
            HWQ_UNROLL
            const int first = t * CFG::channels + (o * PE + n) / group_out * group_in + f * SIMD;
            sum_t sum = 0;
            if (t > 0 || f > 0) sum = acc[n];
            for (int s = 0; s < SIMD; ++s) {
              HWQ_UNROLL
              const typename CFG::weight_t w = weight[o * PE + n][t * group_in + f * SIMD + s];
              mac(sum, held[first + s], w);
            }
            acc[n] = sum;
          }
          if (t == CFG::taps - 1 && f == folds - 1) {
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
}

} // namespace hwq

#endif
