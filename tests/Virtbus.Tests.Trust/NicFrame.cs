using System.Buffers.Binary;

namespace Virtbus.Tests.Trust;

/// <summary>Ethernet frames of the tests.</summary>
internal static class NicFrame
{
    public const int AddressSize = 6;

    /// <summary>The address of a queue set, which is the driver's to choose.</summary>
    /// <param name="function">A number of the function.</param>
    /// <param name="set">The queue set.</param>
    public static byte[] AddressOf(uint function, int set)
    {
        var address = new byte[AddressSize];
        address[0] = 2;
        BinaryPrimitives.WriteUInt32BigEndian(address.AsSpan(1), function);
        address[5] = (byte)set;
        return address;
    }
}
