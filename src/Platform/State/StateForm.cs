namespace Virtbus.Platform;

/// <summary>
/// How a state lies in bytes, little endian: a header (magic 4, version of the form 2, number of sections 2, bytes in all 4), then each section:
/// length of its name 1, flags 1, version 2, length of its content 4, name, content. Nothing stands between or behind them.
/// </summary>
internal static class StateForm
{
    // "VBST"
    public const uint Magic = 0x54534256;
    public const ushort Version = 1;
    public const int HeaderSize = 12;
    public const int SectionHeaderSize = 8;
    public const int MaxName = 32;
    public const byte Optional = 1;

    public static bool IsName(ReadOnlySpan<byte> name) =>
        name.Length is > 0 and <= MaxName && !name.ContainsAnyExcept("abcdefghijklmnopqrstuvwxyz0123456789-."u8);
}
