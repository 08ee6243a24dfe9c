namespace Virtbus.Bench;

/// <summary>The file that disks are measured on.</summary>
internal static class BenchFile
{
    /// <summary>Makes it whole, and has it on the disk: no row pays for the first write of a block.</summary>
    internal static void Fill(string path, long size)
    {
        using var file = File.Open(path, FileMode.Create, FileAccess.Write);
        var piece = new byte[1 << 20];
        Random.Shared.NextBytes(piece);
        for (var at = 0L; at < size; at += piece.Length)
            file.Write(piece);
        file.Flush(flushToDisk: true);
    }
}
