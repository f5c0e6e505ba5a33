#!/bin/sh
# Makes a Python for 64-bit ARM that runs here under QEMU, so that the tests of boards run as on a Jetson's processor:
#
#   apt-get install qemu-user-static binfmt-support          # as root, on Debian or Ubuntu
#   tests/boards/aarch64_python.sh DIR                       # as root: downloads packages and unpacks them into DIR
#   EDGEKD_TEST_BOARD_PYTHON=DIR/python3 python -m pytest tests/boards
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
version=$(apt-cache depends python3-minimal | sed -n 's/.*Depends: python\(3\.[0-9]*\)-minimal.*/\1/p' | head -n 1)
dpkg --add-architecture arm64
apt-get update --quiet
cd "$folder"
for package in libc6 libcrypt1 libexpat1 libffi8 libgcc-s1 libssl3 libbz2-1.0 liblzma5 zlib1g \
    "libpython$version-minimal" "libpython$version-stdlib" "python$version-minimal"; do
    apt-get download --quiet "$package:arm64"
done
for archive in ./*_arm64.deb; do
    dpkg --extract "$archive" root
    rm "$archive"
done
if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
fi
update-binfmts --enable qemu-aarch64
cat >python3 <<END
#!/bin/sh
export QEMU_LD_PREFIX='$folder/root'
exec '$folder/root/usr/bin/python$version' "\$@"
END
chmod +x python3
./python3 -c 'import platform, sys; print(platform.machine(), sys.version)'
