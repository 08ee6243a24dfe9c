using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>A file of 64 KiB that is not in memory, and has no name any more.</summary>
internal static class DiskFile
{
    /// <summary>Makes one beside the tests.</summary>
    /// <returns>It, or null where that folder is in memory.</returns>
    internal static FileDescriptor? TryOpen()
    {
        var path = Path.Combine(AppContext.BaseDirectory, $"virtbus-{Guid.NewGuid()}");
        File.WriteAllBytes(path, new byte[0x10000]);
        try
        {
            var file = FileDescriptor.TryOpen(path, writable: true, out _)!;
            if (!file.IsMemoryFile())
                return file;
            file.Dispose();
            return null;
        }
        finally
        {
            File.Delete(path);
        }
    }
}
