"""A lock file names pinned packages; whatever else pip would take from it is refused by name."""

from __future__ import annotations

import pytest

from fastgpu_hub.engines.lock_files import requirements_of

SHA = "a" * 64
OTHER = "b" * 64


def test_pinned_packages_with_hashes_markers_and_comments_are_read() -> None:
    text = f"""
        # made by pip-compile
        numpy==2.1.0 \\
            --hash=sha256:{OTHER} \\
            --hash=sha256:{SHA}
        Pillow[avif]==11.0 ; python_version < "4"  # for the pictures
        torch==2.5.1+cu121
    """
    assert requirements_of("requirements.txt", text.encode()) == [
        'Pillow[avif]==11.0; python_version < "4"',
        f"numpy==2.1.0 --hash=sha256:{SHA} --hash=sha256:{OTHER}",
        "torch==2.5.1+cu121",
    ]


def test_the_same_packages_written_otherwise_are_the_same_environment() -> None:
    first = requirements_of("requirements.txt", b"a==1\nb==2\n")
    assert first == requirements_of("sub/other.txt", "\ufeffb==2  # two\r\n\r\na == 1\n".encode())


@pytest.mark.parametrize(
    "line",
    [
        "-r /etc/shadow",
        "--requirement=other.txt",
        "-c constraints.txt",
        "-e .",
        "--index-url http://evil.example/simple",
        "--extra-index-url=http://evil.example/simple",
        "--find-links /root",
        "-f http://evil.example",
        "--no-binary :all:",
        "--trusted-host evil.example",
        "numpy==2.1.0 --global-option=x",
        "numpy==2.1.0 --hash=md5:abc",
        "numpy==2.1.0 --hash=sha256:abc",
        "numpy @ file:///root/x.whl",
        "numpy @ https://evil.example/numpy-2.1.0-py3-none-any.whl",
        "https://evil.example/x.whl",
        "git+https://evil.example/x.git",
        "./numpy-2.1.0-py3-none-any.whl",
        "/root/numpy.whl",
        "numpy",
        "numpy>=2",
        "numpy==2.*",
        "numpy==2.1,!=2.2",
        "numpy==2.1.0 ; nonsense",
        "${HOME}==1",
        "numpy==2.1.0\0",
    ],
)
def test_anything_but_a_pinned_package_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"requirements\.txt"):
        requirements_of("requirements.txt", f"fine==1\n{line}\n".encode())


def test_a_pylock_gives_its_wheels_with_their_hashes() -> None:
    text = f"""
        lock-version = "1.0"
        [[packages]]
        name = "numpy"
        version = "2.1.0"
        marker = "python_version >= '3.10'"
        wheels = [{{ url = "https://x.example/numpy.whl", hashes = {{ sha256 = "{SHA}" }} }},
                  {{ url = "https://x.example/numpy-arm.whl", hashes = {{ sha256 = "{OTHER}" }} }}]
    """
    assert requirements_of("pylock.toml", text.encode()) == [
        f'numpy==2.1.0; python_version >= "3.10" --hash=sha256:{SHA} --hash=sha256:{OTHER}'
    ]


@pytest.mark.parametrize(
    ("package", "part"),
    [
        ('name = "x"\nversion = "1"\nsdist = { url = "u", hashes = { sha256 = "SHA" } }', "no wheel with a hash"),
        ('name = "x"\ndirectory = { path = "." }', "without name or version"),
        ('name = "x"\nvcs = { type = "git", url = "u" }', "without name or version"),
        ('name = "x -r y"\nversion = "1"\nwheels = [{ hashes = { sha256 = "SHA" } }]', "not a pinned package"),
        ('name = "x"\nversion = "1\\n-r y"\nwheels = [{ hashes = { sha256 = "SHA" } }]', "not a pinned package"),
        ('name = "x"\nversion = "1"\nwheels = [{ hashes = { sha256 = "0 -r y" } }]', "holds the option"),
        ('name = "x"\nversion = "1"\nmarker = "os.system"\nwheels = [{ hashes = { sha256 = "SHA" } }]', "marker"),
    ],
)  # fmt: skip
def test_what_a_pylock_builds_or_smuggles_is_refused(package: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        requirements_of("pylock.toml", f"[[packages]]\n{package}\n".replace("SHA", SHA).encode())


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("uv.lock", b"version = 1", "uv export"),
        ("requirements.txt", b"\xff\xfe", "not UTF-8"),
        ("requirements.txt", b"# nothing\n", "names no package"),
        ("requirements.txt", b"a==1\n" * 300_000, "larger than"),
        ("requirements.txt", b"\n".join(b"a%d==1" % n for n in range(2001)), "names 2001 packages"),
        ("pylock.toml", b"[[", "cannot be read"),
        ("pylock.toml", b"packages = 3", "no list"),
    ],
)
def test_a_lock_file_that_cannot_be_used_is_refused_with_its_reason(name: str, data: bytes, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        requirements_of(name, data)
