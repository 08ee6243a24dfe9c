using System.Text;

namespace Virtbus.Vm;

/// <summary>
/// Writes a cpio archive in the "new ASCII" format that the kernel unpacks as an initramfs (Documentation/driver-api/early-userspace/
/// buffer-format). Owner root and time 0 throughout, so equal content gives equal bytes.
/// </summary>
internal sealed class CpioWriter(Stream output)
{
    private const uint TypeFolder = 0x4000;
    private const uint TypeFile = 0x8000;
    private const uint TypeLink = 0xA000;

    private uint _inode;

    /// <summary>Adds a folder, mode 0755. Its parent must have been added.</summary>
    public void Folder(string path) => Entry(path, TypeFolder | 0x1ED, links: 2, []);

    /// <summary>Adds a file.</summary>
    public void File(string path, ReadOnlySpan<byte> content, bool executable = false) =>
        Entry(path, TypeFile | (executable ? 0x1EDu : 0x1A4u), links: 1, content);

    /// <summary>Adds a symbolic link.</summary>
    public void Link(string path, string target) => Entry(path, TypeLink | 0x1FF, links: 1, Encoding.UTF8.GetBytes(target));

    /// <summary>Ends the archive. Nothing may be added after it.</summary>
    public void End()
    {
        _inode = uint.MaxValue;
        Entry("TRAILER!!!", mode: 0, links: 1, []);
    }

    private void Entry(string path, uint mode, uint links, ReadOnlySpan<byte> content)
    {
        byte[] name = [.. Encoding.UTF8.GetBytes(path), 0];
        _inode++;
        // The 13 fields after the magic: inode, mode, uid, gid, links, time, size, device and special-device numbers, name size, checksum.
        uint[] fields = [_inode, mode, 0, 0, links, 0, (uint)content.Length, 0, 0, 0, 0, (uint)name.Length, 0];
        byte[] header = Encoding.ASCII.GetBytes("070701" + string.Concat(fields.Select(field => field.ToString("X8"))));
        output.Write(header);
        output.Write(name);
        Pad(header.Length + name.Length);
        output.Write(content);
        Pad(content.Length);
    }

    private void Pad(int written) => output.Write("\0\0\0"u8[..(-written & 3)]);
}
