// Sums of any codes with any weights in int64, without vectors. Weights: [KH][KW][C / groups][O], of the codes' type.
#ifndef HWQ_ENGINE_PLAIN_H
#define HWQ_ENGINE_PLAIN_H

#include "plan.h"

namespace hwq::engine {

// staged: (.., width, c) of T, with its padding. acc: (rows, columns, O).
template <class T>
inline void plain_image(const Op &op, const void *staged, int64_t width, int64_t c, int64_t rows, int64_t columns, int64_t *acc) {
  const int64_t outs = op.shape[2], taken = c / op.groups, per_group = outs / op.groups;
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < columns; ++x, acc += outs) {
      for (int64_t o = 0; o < outs; ++o) acc[o] = 0;
      const T *weights = static_cast<const T *>(op.weights);
      for (int64_t i = 0; i < op.kernel[0]; ++i) {
        for (int64_t j = 0; j < op.kernel[1]; ++j) {
          const int64_t yy = y * op.stride[0] + i * op.dilation[0], xx = x * op.stride[1] + j * op.dilation[1];
          const T *const codes = static_cast<const T *>(staged) + (yy * width + xx) * c;
          for (int64_t k = 0; k < taken; ++k, weights += outs) {
            for (int64_t g = 0; g < op.groups; ++g) {
              const int64_t code = codes[g * taken + k];
              for (int64_t o = g * per_group; o < (g + 1) * per_group; ++o) acc[o] += code * weights[o];
            }
          }
        }
      }
    }
  }
}

} // namespace hwq::engine

#endif
