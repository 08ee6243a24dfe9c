namespace Virtbus.Platform;

/// <summary>A file without a name, in memory (memfd), to be mapped here and handed to a peer.</summary>
public static class MemoryFile
{
    private const int SealSeal = 1;
    private const int SealShrink = 2;
    private const int SealGrow = 4;

    /// <summary>Makes one, zero filled.</summary>
    /// <param name="name">What /proc shows for it.</param>
    /// <param name="size">Size in bytes.</param>
    /// <param name="sealedSize">Whether its size is fixed for good, so that no holder can make a mapping of it fault.</param>
    /// <returns>The descriptor, owned by the caller.</returns>
    /// <exception cref="VirtbusException">The host has no memory or no descriptor left.</exception>
    public static FileDescriptor Create(string name, ulong size, bool sealedSize = true)
    {
        var number = Libc.memfd_create(name, Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING);
        if (number < 0)
            throw HostError.Make($"memory file '{name}'", Libc.LastError);
        var file = new FileDescriptor(number);
        if (Libc.ftruncate(file, checked((long)size)) == 0 &&
            (!sealedSize || Libc.fcntl(file, Libc.F_ADD_SEALS, SealSeal | SealShrink | SealGrow) == 0))
            return file;
        var error = Libc.LastError;
        file.Dispose();
        throw HostError.Make($"memory file '{name}' of {size} bytes", error);
    }
}
