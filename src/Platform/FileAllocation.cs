namespace Virtbus.Platform;

/// <summary>What is to become of a part of a file (the modes of fallocate). Its size stays.</summary>
public enum FileAllocation
{
    /// <summary>Its room is given back and it reads zeros (FALLOC_FL_PUNCH_HOLE).</summary>
    PunchHole = 3,
    /// <summary>It reads zeros and keeps its room (FALLOC_FL_ZERO_RANGE).</summary>
    ZeroRange = 0x11,
}
