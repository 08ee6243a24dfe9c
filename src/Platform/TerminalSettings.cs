namespace Virtbus.Platform;

/// <summary>Settings of the terminal that is this process's standard input (struct termios). Safe from any thread.</summary>
public sealed class TerminalSettings
{
    // The structure has 60 bytes with glibc and musl, and is the C library's alone, but for its second word: the flags of the output.
    private const int Size = 128;
    private const int OutputFlags = 1;
    private const uint OPOST = 1;
    private const int TCSANOW = 0;
    private const int StandardInput = 0;

    private readonly uint[] _termios;

    private TerminalSettings(uint[] termios) => _termios = termios;

    /// <summary>The settings that the terminal has now.</summary>
    /// <exception cref="VirtbusException">ENOTTY: standard input is no terminal.</exception>
    public static unsafe TerminalSettings Read()
    {
        var termios = new uint[Size / sizeof(uint)];
        // SAFETY: the array is pinned for the call and larger than what the C library writes.
        fixed (uint* start = termios)
        {
            if (Libc.tcgetattr(StandardInput, start) != 0)
                throw new VirtbusException(Libc.LastError, $"Standard input has no settings of a terminal: {Libc.LastError}. Run this in a terminal, or redirect standard input.");
        }

        return new TerminalSettings(termios);
    }

    /// <summary>The same, but raw: each key comes as it is pressed, is not printed and means nothing. What is printed still gets its line ends made.</summary>
    public unsafe TerminalSettings ToRaw()
    {
        uint[] raw = [.. _termios];
        // SAFETY: the array is pinned for the call and larger than what the C library reads and writes.
        fixed (uint* start = raw)
            Libc.cfmakeraw(start);
        raw[OutputFlags] |= OPOST;
        return new TerminalSettings(raw);
    }

    /// <summary>Makes them the terminal's. A terminal that has gone is no error.</summary>
    public unsafe void Apply()
    {
        // SAFETY: the array is pinned for the call and larger than what the C library reads.
        fixed (uint* start = _termios)
            _ = Libc.tcsetattr(StandardInput, TCSANOW, start);
    }
}
