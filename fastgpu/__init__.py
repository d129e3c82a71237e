"""What you program FastGPU with: ``GPUClient``, its async twin ``AsyncGPUClient``, the wire models and the errors."""
