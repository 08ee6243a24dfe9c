using System.Buffers.Binary;
using System.Text;

namespace Virtbus.Transports.Nbd;

/// <summary>Reads the data of an option, which a client may have made of anything.</summary>
internal ref struct NbdOptionReader
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
    private ReadOnlySpan<byte> _rest;

    internal NbdOptionReader(ReadOnlySpan<byte> data) => _rest = data;

    /// <summary>Whether nothing is left.</summary>
    internal readonly bool IsAtEnd => _rest.IsEmpty;

    internal bool TryRead(out uint value)
    {
        var has = BinaryPrimitives.TryReadUInt32BigEndian(_rest, out value);
        _rest = has ? _rest[sizeof(uint)..] : default;
        return has;
    }

    internal bool TryRead(out ushort value)
    {
        var has = BinaryPrimitives.TryReadUInt16BigEndian(_rest, out value);
        _rest = has ? _rest[sizeof(ushort)..] : default;
        return has;
    }

    /// <summary>Reads a string with its length of 32 bits before it.</summary>
    internal bool TryRead(out string text)
    {
        text = "";
        if (!TryRead(out uint length) || length > (uint)_rest.Length || !TryDecode(_rest[..(int)length], out text))
            return false;
        _rest = _rest[(int)length..];
        return true;
    }

    /// <summary>Reads bytes as a string; one that is too long, holds a NUL or is no UTF-8 is none.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> bytes, out string text)
    {
        text = "";
        if (bytes.Length > NbdProtocol.MaxString || bytes.Contains((byte)0) || !System.Text.Unicode.Utf8.IsValid(bytes))
            return false;
        text = Strict.GetString(bytes);
        return true;
    }
}
