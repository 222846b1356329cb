# The sources of the CUDA backend: for nvcc (here) and for C++ (tests/cuda_emulation).
set(MOED_CUDA_KERNELS
  ${CMAKE_CURRENT_LIST_DIR}/attention.cu
  ${CMAKE_CURRENT_LIST_DIR}/embedding.cu
  ${CMAKE_CURRENT_LIST_DIR}/gemm.cu
  ${CMAKE_CURRENT_LIST_DIR}/moe_permute.cu
  ${CMAKE_CURRENT_LIST_DIR}/moe_routing.cu
  ${CMAKE_CURRENT_LIST_DIR}/norm.cu
  ${CMAKE_CURRENT_LIST_DIR}/rope.cu
  ${CMAKE_CURRENT_LIST_DIR}/sampling.cu)
set(MOED_CUDA_HOST
  ${CMAKE_CURRENT_LIST_DIR}/attention_plan.cc
  ${CMAKE_CURRENT_LIST_DIR}/cuda_backend.cc
  ${CMAKE_CURRENT_LIST_DIR}/cuda_context.cc
  ${CMAKE_CURRENT_LIST_DIR}/cuda_op_stream.cc
  ${CMAKE_CURRENT_LIST_DIR}/device_weights.cc
  ${CMAKE_CURRENT_LIST_DIR}/sample_lists.cc)
