// Matrix-vector product with PE x SIMD folding: convolutions without groups, and linear layers.
#ifndef HWQ_DENSE_H
#define HWQ_DENSE_H

#include "hwq_mac.h"
#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: in_t, weight_t, weight_raw, acc_bits, acc_t; pixels: vectors an image; inputs, outputs: the
// matrix; pe divides outputs, simd divides inputs. weight: [outputs][inputs], inputs in the order in
// which they arrive. Per vector: outputs/pe * inputs/simd cycles; the first pass reads the stream,
// later ones the copy.
template <class CFG>
void dense(stream<word<typename CFG::in_t, CFG::simd> > &in, stream<word<typename CFG::acc_t, CFG::pe> > &out,
           const typename CFG::weight_raw weight[CFG::outputs][CFG::inputs]) {
  typedef word<typename CFG::in_t, CFG::simd> in_word;
  typedef word<typename CFG::acc_t, CFG::pe> out_word;
  typedef work<CFG::acc_bits> sum_t;
  const int PE = CFG::pe, SIMD = CFG::simd;
  const int out_folds = CFG::outputs / PE, in_folds = CFG::inputs / SIMD;

  in_word copy[in_folds];
  HWQ_PACK(copy)
  for (int p = 0; p < CFG::pixels; ++p) {
    for (int o = 0; o < out_folds; ++o) {
      sum_t acc[PE];
      HWQ_REGISTERS(acc, 1)
      for (int k = 0; k < in_folds; ++k) {
        HWQ_PIPELINE
        in_word x;
        HWQ_PACK(x)
        if (o == 0) {
          x = in.read();
          if (out_folds > 1) copy[k] = x;
        } else {
          x = copy[k];
        }
        for (int n = 0; n < PE; ++n) {
          HWQ_UNROLL
          sum_t sum = 0;
          if (k > 0) sum = acc[n];
          for (int s = 0; s < SIMD; ++s) {
            HWQ_UNROLL
            const typename CFG::weight_t w = weight[o * PE + n][k * SIMD + s];
            mac(sum, x.v[s], w);
          }
          acc[n] = sum;
        }
        if (k == in_folds - 1) {
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
