"""The same job on several engines: llama.cpp's tools, llama-cpp-python, tinygrad."""
