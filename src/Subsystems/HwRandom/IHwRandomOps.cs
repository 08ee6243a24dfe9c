namespace Virtbus.Subsystems.HwRandom;

/// <summary>What a driver of an entropy source does (Linux: struct hwrng).</summary>
public interface IHwRandomOps
{
    /// <summary>The source's name, for example <c>virtio_rng.0</c>; unique.</summary>
    string Name { get; }

    /// <summary>Reads random bytes that nobody else gets. Any thread.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="wait">How long the first one is waited for; zero for what is there.</param>
    /// <returns>How many; 0 when none came in time, or the hardware is gone.</returns>
    int Read(Span<byte> destination, TimeSpan wait);
}
