# make -f sim/build.mk tb|lib AP_INCLUDE=<folder of ap_int.h>   (in the project folder)
# NATIVE=1 builds on built-in integers and needs no AMD headers.
CXX ?= g++
FLAGS := -std=c++14 -Ifirmware -Ihls -Isim
ifdef NATIVE
FLAGS += -O3 -march=native -DHWQ_NATIVE=1
else
FLAGS += -O2 -isystem $(AP_INCLUDE)
endif

.PHONY: tb lib
tb:
	$(CXX) $(FLAGS) sim/tb.cpp firmware/*_top.cpp -o tb
lib:
	$(CXX) $(FLAGS) -fPIC -shared sim/bridge.cpp firmware/*_top.cpp -o simulation.so
