// Zeros around a feature map, in space and in channels.
#ifndef HWQ_PAD_H
#define HWQ_PAD_H

#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// CFG: in_t; height, width, channels; pad_top, pad_bottom, pad_left, pad_right; before, after: channels of
// code 0 around each pixel's own; lanes: divides channels, before and after. A word a cycle; nothing is stored.
template <class CFG>
void pad(stream<word<typename CFG::in_t, CFG::lanes> > &in, stream<word<typename CFG::in_t, CFG::lanes> > &out) {
  const int folds = (CFG::before + CFG::channels + CFG::after) / CFG::lanes;
  const int padded_h = CFG::pad_top + CFG::height + CFG::pad_bottom;
  const int padded_w = CFG::pad_left + CFG::width + CFG::pad_right;
  const int first = CFG::before / CFG::lanes;
  const int last = first + CFG::channels / CFG::lanes;
  int y = 0;
  int x = 0;
  int f = 0;
  for (int i = 0; i < padded_h * padded_w * folds; ++i) {
    HWQ_PIPELINE
    const bool inside_y = y >= CFG::pad_top && y < CFG::pad_top + CFG::height;
    const bool inside_x = x >= CFG::pad_left && x < CFG::pad_left + CFG::width;
    word<typename CFG::in_t, CFG::lanes> value;
    HWQ_PACK(value)
    if (inside_y && inside_x && f >= first && f < last) {
      value = in.read();
    } else {
      for (int l = 0; l < CFG::lanes; ++l) {
        HWQ_UNROLL
        value.v[l] = 0;
      }
    }
    out.write(value);
    f = f == folds - 1 ? 0 : f + 1;
    if (f == 0) {
      x = x == padded_w - 1 ? 0 : x + 1;
      if (x == 0) ++y;
    }
  }
}

} // namespace hwq

#endif
