// fragments.cpp - writes fragments.txt; README.md says what it holds.
//
// From CuTe's layouts, which NVIDIA keeps as data (cute/atom/mma_traits_sm80.hpp,
// copy_traits_sm75.hpp), by CuTe's own arithmetic; from nothing of ours. Anywhere that has
// CUTLASS's and CUDA's headers:
//
//     g++ -std=c++17 -w -I<cutlass>/include -I<cuda>/include -I<cuda>/include/cccl \
//         spec/golden/fragments.cpp -o fragments && ./fragments >spec/golden/fragments.txt
#include <cstdint>

#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/mma_traits_sm80.hpp>

#include <cstdio>

using namespace cute;
using mma = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;

// A layout takes (lane, value) to row + rows * column; `flip` where it names a column first.
template <class L> static void print_operand(const char *name, L layout, int rows, bool flip) {
    std::printf("%s %d\n", name, int(size<1>(layout)));
    for (int lane = 0; lane < 32; lane++) {
        for (int value = 0; value < int(size<1>(layout)); value++) {
            int at = layout(lane, value), first = at % rows, second = at / rows;
            std::printf("%s%d,%d", value ? " " : "", flip ? second : first, flip ? first : second);
        }
        std::printf("\n");
    }
}

// Where layouts take (lane, value) to a bit of what is copied: of the row that a lane gives the
// address of, and of a value in the lanes that the rows end up in.
template <class T> static void print_load(const char *name, Copy_Traits<T>) {
    typename Copy_Traits<T>::SrcLayout given;
    typename Copy_Traits<T>::DstLayout got;
    int lane_of[4096], bit_of[4096];
    for (int lane = 0; lane < 32; lane++)
        for (int bit = 0; bit < 128; bit++) {
            lane_of[given(lane, bit)] = lane;
            bit_of[given(lane, bit)] = bit;
        }
    std::printf("%s 8\n", name);
    for (int lane = 0; lane < 32; lane++) {
        for (int value = 0; value < 8; value++) {
            int at = got(lane, 16 * value);
            std::printf("%s%d,%d", value ? " " : "", lane_of[at], bit_of[at] / 16);
        }
        std::printf("\n");
    }
}

int main() {
    print_operand("a", mma::ALayout{}, 16, false);
    print_operand("b", mma::BLayout{}, 8, true); // CuTe's B is [n, k]
    print_operand("c", mma::CLayout{}, 16, false);
    print_load("load", Copy_Traits<SM75_U32x4_LDSM_N>{});
    print_load("transposed", Copy_Traits<SM75_U16x8_LDSM_T>{});
    return 0;
}
