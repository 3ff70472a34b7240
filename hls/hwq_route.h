// Processes that move codes and compute nothing: fork, width adapter, concatenation.
#ifndef HWQ_ROUTE_H
#define HWQ_ROUTE_H

#include "hwq_pragmas.h"
#include "hwq_stream.h"
#include "hwq_types.h"

namespace hwq {

// Every word to two readers.
template <int WORDS, class WORD> void fork(stream<WORD> &in, stream<WORD> &first, stream<WORD> &second) {
  for (int i = 0; i < WORDS; ++i) {
    HWQ_PIPELINE
    const WORD x = in.read();
    first.write(x);
    second.write(x);
  }
}

// Words of IN lanes to words of OUT lanes. BLOCK: a common multiple of both; BLOCKS of them an image.
template <int BLOCKS, int BLOCK, class T, int IN, int OUT>
void adapt(stream<word<T, IN> > &in, stream<word<T, OUT> > &out) {
  T held[BLOCK];
  HWQ_REGISTERS(held, 1)
  for (int b = 0; b < BLOCKS; ++b) {
    for (int i = 0; i < BLOCK / IN; ++i) {
      HWQ_PIPELINE
      const word<T, IN> x = in.read();
      for (int l = 0; l < IN; ++l) {
        HWQ_UNROLL
        held[i * IN + l] = x.v[l];
      }
    }
    for (int i = 0; i < BLOCK / OUT; ++i) {
      HWQ_PIPELINE
      word<T, OUT> y;
      HWQ_PACK(y)
      for (int l = 0; l < OUT; ++l) {
        HWQ_UNROLL
        y.v[l] = held[i * OUT + l];
      }
      out.write(y);
    }
  }
}

// FIRST channels of one stream, then SECOND of the other, pixel by pixel.
template <int PIXELS, int FIRST, int SECOND, class T, int A, int B, int OUT>
void concat(stream<word<T, A> > &first, stream<word<T, B> > &second, stream<word<T, OUT> > &out) {
  T held[FIRST + SECOND];
  HWQ_REGISTERS(held, 1)
  for (int p = 0; p < PIXELS; ++p) {
    for (int i = 0; i < FIRST / A; ++i) {
      HWQ_PIPELINE
      const word<T, A> x = first.read();
      for (int l = 0; l < A; ++l) {
        HWQ_UNROLL
        held[i * A + l] = x.v[l];
      }
    }
    for (int i = 0; i < SECOND / B; ++i) {
      HWQ_PIPELINE
      const word<T, B> x = second.read();
      for (int l = 0; l < B; ++l) {
        HWQ_UNROLL
        held[FIRST + i * B + l] = x.v[l];
      }
    }
    for (int i = 0; i < (FIRST + SECOND) / OUT; ++i) {
      HWQ_PIPELINE
      word<T, OUT> y;
      HWQ_PACK(y)
      for (int l = 0; l < OUT; ++l) {
        HWQ_UNROLL
        y.v[l] = held[i * OUT + l];
      }
      out.write(y);
    }
  }
}

} // namespace hwq

#endif
