// hwq::stream<T>: AMD's hls::stream; under -DHWQ_NATIVE a light FIFO with the same calls.
// In simulation the processes of an image run one after the other, so a FIFO holds all a process
// wrote; the depths that hardware needs stand beside the streams in the top function.
#ifndef HWQ_STREAM_H
#define HWQ_STREAM_H

#ifdef HWQ_NATIVE

#include <stddef.h>
#include <vector>

namespace hwq {
namespace sim {

// Reads from an empty stream and data left over, in this thread: always 0 in a sound project.
inline int &stream_faults() {
  static thread_local int count = 0;
  return count;
}

} // namespace sim

template <class T> class stream {
public:
  explicit stream(const char * = "") : head_(0) {}
  ~stream() {
    if (!empty()) ++sim::stream_faults();
  }

  void write(const T &value) { data_.push_back(value); }

  T read() {
    if (empty()) {
      ++sim::stream_faults();
      return T();
    }
    T value = data_[head_++];
    if (head_ == data_.size()) {
      data_.clear();
      head_ = 0;
    }
    return value;
  }

  bool empty() const { return head_ == data_.size(); }

private:
  stream(const stream &);
  stream &operator=(const stream &);

  std::vector<T> data_;
  size_t head_;
};

} // namespace hwq

#else

#include <hls_stream.h>

namespace hwq {

template <class T> using stream = hls::stream<T>;

} // namespace hwq

#endif
#endif
