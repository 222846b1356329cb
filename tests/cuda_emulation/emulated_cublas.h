#pragma once

/// cuBLAS for the emulated device: kernels/cuda/cublas_library.h's functions, on its memory and in
/// the order of its streams. Sums go along K in f32.
namespace cuda_emulation {

/// Products that have been asked for so far.
int NumCublasProducts();

/// There is no cuBLAS to be found, until this is called with true.
void SetHasCublas(bool has_cublas);

/// Every product fails, until this is called with false.
void FailCublasProducts(bool fail);

}  // namespace cuda_emulation
