"""Files that outlive their job, and inputs from elsewhere: the broker's FileStore over fsspec."""

from fastgpu_hub.artifacts.job_files import JobFiles

__all__ = ["JobFiles"]
