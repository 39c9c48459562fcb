/** Java client of Parley. What is not public here or in {@code errors} is private; {@code dev.parley.v1} is generated. */
package dev.parley.client;
