using System.Security.Cryptography;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A file of random bytes for a disk, and what a test knows to be in it.</summary>
internal sealed class DiskImage
{
    public const int MiB = 1024 * 1024;

    public DiskImage(TestFabric fabric, string name, int size)
    {
        Expected = RandomNumberGenerator.GetBytes(size);
        Path = fabric.Write(name, "");
        File.WriteAllBytes(Path, Expected);
    }

    public string Path { get; }

    public byte[] Expected { get; }

    /// <summary>What sha256sum says of a disk with the expected bytes.</summary>
    public string Sum => Convert.ToHexStringLower(SHA256.HashData(Expected));

    /// <summary>Whether the file holds the expected bytes and no other.</summary>
    public bool IsAsExpected => File.ReadAllBytes(Path).AsSpan().SequenceEqual(Expected);
}
