# plugin.cmake - libdopl_cuda.so: what `--device cuda` opens.
#
# The plug-in is opened by a program, or by a Lua module that itself was opened with RTLD_LOCAL, so
# it takes no symbol from its host: it has copies of the core's functions that it calls, hidden, and
# shows one name of its own. They work on the host's structs (core/device.h says how the two agree).
# The target `plugin` is there always, and builds what there is to build.

option(DOPL_CUDA "build the CUDA plug-in where nvcc 12.4 or newer is found" ON)

file(GLOB CUDA_HOST_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/runtime/cuda/*.c)
file(GLOB_RECURSE CUDA_KERNEL_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
set(CUDA_CORE_SOURCES # the host's functions that the plug-in has copies of
  runtime/core/bf16.c runtime/core/device.c runtime/core/rt.c runtime/core/tape.c
  runtime/core/tensor.c runtime/io/bytes.c runtime/io/files.c runtime/io/hash.c runtime/io/roots.c
  runtime/op/rules.c runtime/optim/codec.c runtime/optim/codec_avx512.c runtime/optim/cuda_source.c
  runtime/optim/narrow.c runtime/optim/primitives.c runtime/optim/program.c)
list(TRANSFORM CUDA_CORE_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/)

# What the plug-in and its emulated twin (spec/cuda) have in common.
function(set_up_plugin target)
  set_target_properties(${target} PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR} C_VISIBILITY_PRESET hidden
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden INSTALL_RPATH_USE_LINK_PATH ON)
  target_include_directories(${target} PRIVATE ${XXHASH_INCLUDE})
  target_link_libraries(${target} PRIVATE ${XXHASH_LIBRARY} OpenMP::OpenMP_C m ${CMAKE_DL_LIBS})
  target_link_options(${target} PRIVATE
    -Wl,-z,defs # an operator without a kernel is a link error that names it
    -Wl,--gc-sections)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:C,CXX>:-ffunction-sections;-fdata-sections>")
endfunction()

add_custom_target(plugin)
if(NOT DOPL_CUDA OR DOPL_SANITIZE)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  return()
endif()
find_package(CUDAToolkit 12.4)
if(NOT CUDAToolkit_FOUND)
  return()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90) # 90: machine code, and PTX for what is newer
endif()
enable_language(CUDA)

add_library(dopl_cuda MODULE
  ${CUDA_HOST_SOURCES} ${CUDA_KERNEL_SOURCES} ${CUDA_CORE_SOURCES})
set_up_plugin(dopl_cuda)
set_target_properties(dopl_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
  CUDA_RUNTIME_LIBRARY Static)
target_compile_options(dopl_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-maybe-uninitialized;--Werror=all-warnings>"
  # registers that spill, and arrays that are no registers, are warnings: errors, that is
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills,-warn-lmem-usage>")
target_link_libraries(dopl_cuda PRIVATE CUDA::cudart_static CUDA::cublasLt CUDA::nvrtc)
add_dependencies(plugin dopl_cuda)
install(TARGETS dopl_cuda LIBRARY DESTINATION lib/dopl OPTIONAL)
