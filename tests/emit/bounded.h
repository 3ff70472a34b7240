// hwq::stream as hardware has it, for tests: a FIFO of bounded depth that blocks its reader when empty and
// its writer when full, with every process of the top function in a thread of its own.
// Included before everything else, in the place of hwq_stream.h and hwq_tap.h (it takes their guards).
// One thread runs at a time and hands over when it blocks. The network is determinate, so whether it
// deadlocks, and what it writes, are the same in every other interleaving; and a deadlock is seen
// exactly, with no clock: nobody is left to hand over to.
#ifndef HWQ_BOUNDED_H
#define HWQ_BOUNDED_H

#define HWQ_STREAM_H
#define HWQ_TAP_H
#define HWQ_TAP(index, stream) (stream).record(index);

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hwq {
namespace sim {

const int deadlock_status = 3;

struct process_thread {
  std::string name;
  std::string blocked; // what it waits for; empty: it can run
  std::condition_variable turn;
  std::thread thread;
  bool mine = false;
};

struct network_state {
  std::mutex lock;
  std::deque<process_thread *> ready;
  std::vector<std::unique_ptr<process_thread> > processes;
  std::map<std::string, unsigned> depths; // instead of the declared ones
  std::map<int, std::vector<long long> > recorded;
  int images = 1;
  size_t finished = 0;
  std::condition_variable done;
};

inline network_state &network() {
  static network_state state;
  return state;
}

inline process_thread *&self() {
  static thread_local process_thread *current = nullptr;
  return current;
}

// The next thread's turn; `lock` is held. Ends the program when nobody can run.
inline void hand_over() {
  network_state &net = network();
  if (!net.ready.empty()) {
    process_thread *next = net.ready.front();
    net.ready.pop_front();
    next->mine = true;
    next->turn.notify_one();
    return;
  }
  if (net.finished == net.processes.size()) {
    net.done.notify_one();
    return;
  }
  printf("DEADLOCK\n");
  for (const auto &p : net.processes) {
    if (!p->blocked.empty()) printf("%s: %s\n", p->blocked.c_str(), p->name.c_str());
  }
  fflush(stdout);
  _Exit(deadlock_status);
}

inline void await_turn(process_thread &me, std::unique_lock<std::mutex> &held) {
  me.turn.wait(held, [&] { return me.mine; });
  me.mine = false;
}

// Starts when finish() is called; `call` runs once an image.
inline void process(const char *name, std::function<void()> call) {
  network_state &net = network();
  net.processes.emplace_back(new process_thread);
  process_thread &made = *net.processes.back();
  made.name = name;
  net.ready.push_back(&made);
  made.thread = std::thread([&net, &made, call] {
    self() = &made;
    {
      std::unique_lock<std::mutex> held(net.lock);
      await_turn(made, held);
    }
    for (int n = 0; n < net.images; ++n) call();
    std::unique_lock<std::mutex> held(net.lock);
    ++net.finished;
    hand_over();
  });
}

// Runs all processes to their end.
inline void finish() {
  network_state &net = network();
  {
    std::unique_lock<std::mutex> held(net.lock);
    hand_over();
    net.done.wait(held, [&] { return net.finished == net.processes.size(); });
  }
  for (auto &p : net.processes) p->thread.join();
}

} // namespace sim

template <class T> class stream {
public:
  // Depth 2 is what HLS gives a stream without a pragma.
  explicit stream(const char *name = "") : name_(name), depth_(2), reader_(nullptr), writer_(nullptr) {}

  void limit(unsigned depth) {
    const auto &other = sim::network().depths;
    const auto found = other.find(name_);
    depth_ = found == other.end() ? depth : found->second;
  }

  // All that was and will be written is op `index`'s result.
  void record(int index) {
    indices_.push_back(index);
    for (const T &value : data_) record(index, value);
  }

  void write(const T &value) {
    if (depth_ && data_.size() >= depth_) block(writer_, "full  ");
    data_.push_back(value);
    for (const int index : indices_) record(index, value);
    wake(reader_);
  }

  T read() {
    if (data_.empty()) block(reader_, "empty ");
    const T value = data_.front();
    data_.pop_front();
    wake(writer_);
    return value;
  }

  bool empty() const { return data_.empty(); }

private:
  stream(const stream &);
  stream &operator=(const stream &);

  static void record(int index, const T &value) {
    std::vector<long long> &values = sim::network().recorded[index];
    for (int l = 0; l < T::lanes; ++l) values.push_back(static_cast<long long>(value.v[l]));
  }

  void block(sim::process_thread *&waiting, const char *why) {
    sim::process_thread *me = sim::self();
    if (!me) { // the harness itself
      printf("the ports ran dry\n");
      exit(1);
    }
    std::unique_lock<std::mutex> held(sim::network().lock);
    waiting = me;
    me->blocked = why + name_ + " (depth " + std::to_string(depth_) + ")";
    sim::hand_over();
    sim::await_turn(*me, held);
  }

  void wake(sim::process_thread *&waiting) {
    if (!waiting) return;
    std::unique_lock<std::mutex> held(sim::network().lock);
    waiting->blocked.clear();
    sim::network().ready.push_back(waiting);
    waiting = nullptr;
  }

  std::string name_;
  unsigned depth_; // 0: without bound (the ports)
  sim::process_thread *reader_, *writer_;
  std::vector<int> indices_;
  std::deque<T> data_;
};

} // namespace hwq

#endif
